/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the tests of hooks say of a client's TLS: one with a good certificate, whose name has octets
 * that no protocol can carry as they are.
 */
#ifndef TESTS_UNIT_SOME_TLS_H
#define TESTS_UNIT_SOME_TLS_H

#include "engine/hook/hook.h"

static inline struct hook_tls some_tls(void)
{
	static const uint8_t sum[32] = {0xab, 0xcd, [30] = 0x01, 0xef};

	return (struct hook_tls){.version = SPAN_LIT("TLSv1.3"),
		.cipher = SPAN_LIT("TLS_AES_128_GCM_SHA256"),
		.bits = 128,
		.sni = SPAN_LIT("mx.example"),
		.certified = true,
		.verified = true,
		.subject = SPAN_LIT("Some\nOne+1\xc3\xa9"),
		.sha256 = span_of(sum, sizeof(sum))};
}

#endif

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Writing our own replies: see local.h. Whatever the parts hold, the result is one line.
 */
#include "engine/smtp/local.h"

static size_t append(uint8_t *out, size_t n, const char *s)
{
	const size_t max = LOCAL_REPLY_BYTES_MAX - 2;

	for (; s && *s && n < max; s++)
		out[n++] = (uint8_t)*s < 0x20 || *s == 0x7f ? '?' : (uint8_t)*s;
	return n;
}

size_t local_reply_write(const struct local_reply *r, const char *detail, uint8_t *out)
{
	size_t n = 0;

	ASSERT(r->code >= 200 && r->code <= 599);
	out[n++] = (uint8_t)('0' + r->code / 100);
	out[n++] = (uint8_t)('0' + r->code / 10 % 10);
	out[n++] = (uint8_t)('0' + r->code % 10);
	out[n++] = ' ';
	if (r->enhanced) {
		n = append(out, n, r->enhanced);
		n = append(out, n, " ");
	}
	n = append(out, n, r->text);
	if (detail) {
		n = append(out, n, " ");
		n = append(out, n, detail);
	}
	out[n++] = '\r';
	out[n++] = '\n';
	return n;
}

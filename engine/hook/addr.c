/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See addr.h.
 */
#include "engine/hook/addr.h"

#include "ring/listen.h"

#include <netinet/in.h>

static char *put_hex(char *to, unsigned group)
{
	static const char digits[] = "0123456789abcdef";
	int shift = 12;

	while (shift > 0 && group >> shift == 0)
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		*to++ = digits[group >> shift & 15];
	return to;
}

/* The longest run of zero groups, the first of equal ones, two at least. */
static void find_zeros(const uint8_t *a, unsigned *begin, unsigned *end)
{
	*begin = *end = 8;
	for (unsigned i = 0, run; i < 8; i += run + 1) {
		for (run = 0; i + run < 8 && !(a[2 * (i + run)] | a[2 * (i + run) + 1]); run++)
			;
		if (run >= 2 && run > *end - *begin) {
			*begin = i;
			*end = i + run;
		}
	}
}

static char *put_v6(char *to, const uint8_t *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	unsigned begin, end;

	if (memcmp(a, mapped, sizeof(mapped)) == 0)
		return addr_put_v4(to, a + 12);
	find_zeros(a, &begin, &end);
	for (unsigned i = 0; i < 8; i++) {
		if (i == begin) {
			*to++ = ':';
			*to++ = ':';
			i = end;
		} else if (i > 0) {
			*to++ = ':';
		}
		if (i < 8)
			to = put_hex(to, (unsigned)a[2 * i] << 8 | a[2 * i + 1]);
	}
	return to;
}

size_t hook_addr_text(const struct ring_addr *a, char out[HOOK_ADDR_BYTES])
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&a->ss;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&a->ss;

	if (a->len == 0)
		return 0;
	switch (a->sa.sa_family) {
	case AF_INET:
		return (size_t)(addr_put_v4(out, (const uint8_t *)&v4->sin_addr) - out);
	case AF_INET6:
		return (size_t)(put_v6(out, v6->sin6_addr.s6_addr) - out);
	}
	return 0;
}

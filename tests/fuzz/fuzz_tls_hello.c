/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reading a ClientHello: tls/hello.h. Claimed, for any octets:
 *  - no octet outside of the input and the scratch is touched;
 *  - octet by octet it is HELLO_MORE until it is decided, and what is decided stays so, whatever
 *    comes behind (but for which alert it is); a whole hello says the same facts then;
 *  - an alert is said exactly with HELLO_BAD; a name is one that may be one and lies in the
 * scratch;
 *  - it is decided before HELLO_WIRE_MAX octets are passed;
 *  - how the message is cut into records does not matter, as long as there are not too many.
 * Input: octet 0 how large the records are that it is cut into anew (0: as it is), the rest are the
 * octets of the wire.
 */
#include "tests/fuzz/fuzz.h"

#include "tls/hello.h"

#define SCRATCH_BYTES (HELLO_BYTES_MAX + 4)
#define EVERY_CUT_BYTES_MAX 700

struct facts {
	enum hello_result res;
	uint8_t kinds, alert, name[HELLO_NAME_MAX];
	size_t name_n;
	bool tls13, alpn, smtp;
};

static void check(const struct hello *h, enum hello_result res, struct span scratch)
{
	ASSERT(res == HELLO_WHOLE || res == HELLO_MORE || res == HELLO_NOT_TLS || res == HELLO_BAD);
	ASSERT((h->alert != 0) == (res == HELLO_BAD));
	if (res != HELLO_WHOLE)
		return;
	ASSERT(lies_in(h->sni, scratch) && h->sni.n <= HELLO_NAME_MAX);
	ASSERT((h->kinds & ~(HELLO_RSA | HELLO_P256 | HELLO_P384 | HELLO_P521)) == 0);
	ASSERT(h->alpn || !h->smtp);
}

static struct facts read_copy(struct span wire)
{
	struct span in = exact_copy(wire);
	uint8_t *scratch = malloc(SCRATCH_BYTES);
	struct facts f = {0};
	struct hello h;

	ASSERT(scratch);
	f.res = hello_read(in, scratch, &h);
	check(&h, f.res, span_of(scratch, SCRATCH_BYTES));
	f.alert = h.alert;
	if (f.res == HELLO_WHOLE) {
		f.kinds = h.kinds;
		f.tls13 = h.tls13;
		f.alpn = h.alpn;
		f.smtp = h.smtp;
		f.name_n = h.sni.n;
		if (h.sni.n > 0)
			memcpy(f.name, h.sni.p, h.sni.n);
	}
	free(scratch);
	exact_free(in);
	return f;
}

static bool same(const struct facts *a, const struct facts *b)
{
	return a->res == b->res && a->kinds == b->kinds && a->tls13 == b->tls13 &&
	       a->alpn == b->alpn && a->smtp == b->smtp && a->name_n == b->name_n &&
	       memcmp(a->name, b->name, a->name_n) == 0;
}

static void grow(struct span wire)
{
	struct facts decided = {.res = HELLO_MORE}, all = read_copy(wire);

	for (size_t n = 0; n <= wire.n; n++) {
		struct facts f;

		if (n > EVERY_CUT_BYTES_MAX && n + 16 < wire.n && n % 61 != 0)
			continue;
		f = read_copy(span_of(wire.p, n));
		ASSERT(n < HELLO_WIRE_MAX || f.res != HELLO_MORE);
		if (decided.res != HELLO_MORE)
			ASSERT(same(&f, &decided));
		decided = f;
	}
	ASSERT(same(&decided, &all));
}

/* What lies in whole records of the handshake, from the front. */
static size_t unwrap(struct span wire, uint8_t *out)
{
	size_t n = 0;

	while (wire.n >= 5 && wire.p[0] == 22 && wire.p[1] == 3) {
		size_t len = (size_t)(wire.p[3] << 8 | wire.p[4]);

		if (len == 0 || wire.n < 5 + len)
			break;
		memcpy(out + n, wire.p + 5, len);
		n += len;
		wire = span_drop(wire, 5 + len);
	}
	return n;
}

static void cut_anew(struct span wire, size_t size)
{
	static uint8_t message[1 << 16], again[1 << 17];
	size_t n = unwrap(wire, message), k = 0, records = 0;
	struct facts a = read_copy(wire), b;

	if (a.res != HELLO_WHOLE || n > HELLO_BYTES_MAX)
		return;
	for (size_t at = 0; at < n; records++) {
		size_t len = MIN_OF(size, n - at);
		const uint8_t head[5] = {22, 3, 1, (uint8_t)(len >> 8), (uint8_t)len};

		memcpy(again + k, head, 5);
		memcpy(again + k + 5, message + at, len);
		k += 5 + len;
		at += len;
	}
	if (records == 0 || records > HELLO_RECORDS_MAX)
		return;
	b = read_copy(span_of(again, k));
	ASSERT(same(&a, &b));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n);
	size_t size = take_octet(&in) * 16u;

	if (in.n > HELLO_WIRE_MAX + 100)
		return 0;
	grow(in);
	if (size > 0)
		cut_anew(in, size);
	return 0;
}

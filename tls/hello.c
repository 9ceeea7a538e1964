/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reading a ClientHello (hello.h). A cursor that cannot leave its span; whatever does not fit its
 * own lengths makes the hello bad. What is read by two readers must mean the same to both, so an
 * extension that counts here may be there once only.
 */
#include "tls/hello.h"

enum { RECORD_HANDSHAKE = 22, CLIENT_HELLO = 1, RECORD_MAX = 16 << 10 };
enum { UNEXPECTED_MESSAGE = 10, RECORD_OVERFLOW = 22, ILLEGAL_PARAMETER = 47, DECODE_ERROR = 50 };
enum {
	EXT_SERVER_NAME = 0,
	EXT_SIGNATURE_ALGORITHMS = 13,
	EXT_ALPN = 16,
	EXT_SUPPORTED_VERSIONS = 43,
	EXT_KEY_SHARE = 51,
};
#define SHARES_MAX 64

struct cursor {
	struct span left;
	bool bad; /* something was longer than what it is in */
};

static uint32_t number(struct cursor *c, size_t octets)
{
	uint32_t v = 0;

	if (c->left.n < octets) {
		c->bad = true;
		c->left = SPAN_NONE;
		return 0;
	}
	for (size_t i = 0; i < octets; i++)
		v = v << 8 | c->left.p[i];
	c->left = span_drop(c->left, octets);
	return v;
}

static struct span octets(struct cursor *c, size_t n)
{
	struct span s = span_of(c->left.p, n);

	if (c->left.n < n) {
		c->bad = true;
		c->left = SPAN_NONE;
		return SPAN_NONE;
	}
	c->left = span_drop(c->left, n);
	return s;
}

/* A vector with a length of `width` octets before it, as a cursor of its own. */
static struct cursor vector(struct cursor *c, size_t width)
{
	uint32_t n = number(c, width);

	return (struct cursor){.left = octets(c, n)};
}

/* ---- records ---- */

static enum hello_result bad(struct hello *h, uint8_t alert)
{
	h->alert = alert;
	return HELLO_BAD;
}

/* What can be said of the first octets, however few they are. */
static enum hello_result first_look(struct span wire, struct hello *h)
{
	if (wire.n >= 1 && wire.p[0] != RECORD_HANDSHAKE)
		return HELLO_NOT_TLS;
	if (wire.n >= 2 && wire.p[1] != 3)
		return HELLO_NOT_TLS;
	if (wire.n >= 6 && wire.p[5] != CLIENT_HELLO)
		return bad(h, UNEXPECTED_MESSAGE);
	return HELLO_WHOLE;
}

/* The message without the records around it. HELLO_WHOLE: *n octets are in scratch. */
static enum hello_result unwrap(struct span wire, uint8_t *scratch, size_t *n, struct hello *h)
{
	size_t want = 4;

	*n = 0;
	for (unsigned records = 0; *n < want; records++) {
		struct cursor c = {.left = wire};
		uint32_t type = number(&c, 1), major = number(&c, 1), len;

		(void)number(&c, 1);
		len = number(&c, 2);
		if (c.bad)
			return records == HELLO_RECORDS_MAX ? bad(h, DECODE_ERROR) : HELLO_MORE;
		if (type != RECORD_HANDSHAKE || major != 3)
			return bad(h, UNEXPECTED_MESSAGE);
		if (len == 0 || records == HELLO_RECORDS_MAX)
			return bad(h, DECODE_ERROR);
		if (len > RECORD_MAX)
			return bad(h, RECORD_OVERFLOW);
		size_t here = MIN_OF(MIN_OF((size_t)len, c.left.n), HELLO_BYTES_MAX + 4 - *n);

		memcpy(scratch + *n, c.left.p, here);
		*n += here;
		if (*n >= 4) {
			want = 4 +
			       ((size_t)scratch[1] << 16 | (size_t)scratch[2] << 8 | scratch[3]);
			if (want > HELLO_BYTES_MAX + 4)
				return bad(h, DECODE_ERROR);
		}
		if (*n >= want)
			break;
		if (c.left.n < len)
			return HELLO_MORE;
		wire = span_drop(c.left, len);
	}
	*n = want;
	return HELLO_WHOLE;
}

/* ---- what the client can check ---- */

struct abilities {
	bool sig_list, pss, pkcs1, ecdsa;
	uint8_t curves; /* HELLO_P...: by the schemes of 1.3 */
	bool suites_13;
	bool suites_rsa, suites_ecdsa; /* of 1.2 */
};

/* Suites of 1.2 are of one kind of certificate each (RFC 8422, 5289, 7905, 5288). */
static void note_suite(struct abilities *a, uint32_t suite)
{
	static const uint16_t ecdsa[] = {0xc009, 0xc00a, 0xc023, 0xc024, 0xc02b, 0xc02c, 0xc0ac,
		0xc0ad, 0xc0ae, 0xc0af, 0xcca9};
	static const uint16_t rsa[] = {0xc013, 0xc014, 0xc027, 0xc028, 0xc02f, 0xc030, 0xcca8,
		0x009e, 0x009f, 0xccaa, 0x009c, 0x009d, 0x0033, 0x0039, 0x002f, 0x0035};

	a->suites_13 |= suite >= 0x1301 && suite <= 0x1305;
	for (size_t i = 0; i < ARRAY_LEN(ecdsa); i++)
		a->suites_ecdsa |= ecdsa[i] == suite;
	for (size_t i = 0; i < ARRAY_LEN(rsa); i++)
		a->suites_rsa |= rsa[i] == suite;
}

/* RFC 8446 4.2.3; in 1.2 the second octet is the kind, 1 for RSA and 3 for ECDSA. */
static void note_scheme(struct abilities *a, uint32_t scheme)
{
	if (scheme >= 0x0804 && scheme <= 0x0806)
		a->pss = true;
	if ((scheme & 0xff) == 1 && scheme < 0x0800)
		a->pkcs1 = true;
	if ((scheme & 0xff) == 3 && scheme < 0x0800)
		a->ecdsa = true;
	if (scheme == 0x0403)
		a->curves |= HELLO_P256;
	if (scheme == 0x0503)
		a->curves |= HELLO_P384;
	if (scheme == 0x0603)
		a->curves |= HELLO_P521;
}

static uint8_t kinds_of(const struct abilities *a, bool tls13)
{
	const uint8_t any = HELLO_P256 | HELLO_P384 | HELLO_P521;
	uint8_t k = 0;

	if (tls13)
		return a->curves | (a->pss ? HELLO_RSA : 0);
	if (a->suites_ecdsa && (a->ecdsa || !a->sig_list))
		k |= any;
	if (a->suites_rsa && (a->pkcs1 || a->pss || !a->sig_list))
		k |= HELLO_RSA;
	return k;
}

/* ---- extensions ---- */

struct reading {
	struct hello *h;
	struct abilities can;
	bool twice; /* the same key share group: RFC 8446 4.2.8 */
};

static void read_server_name(struct reading *r, struct cursor *c)
{
	struct cursor list = vector(c, 2);

	while (list.left.n > 0) {
		uint32_t type = number(&list, 1);
		struct cursor name = vector(&list, 2);

		if (type == 0 && r->h->sni.n == 0) {
			if (name.left.n == 0 || name.left.n > HELLO_NAME_MAX)
				c->bad = true;
			else
				r->h->sni = name.left;
		}
	}
	c->bad |= list.bad;
}

static void read_schemes(struct reading *r, struct cursor *c)
{
	struct cursor list = vector(c, 2);

	r->can.sig_list = true;
	while (list.left.n > 0)
		note_scheme(&r->can, number(&list, 2));
	c->bad |= list.bad;
}

static void read_protocols(struct reading *r, struct cursor *c)
{
	struct cursor list = vector(c, 2);

	r->h->alpn = true;
	while (list.left.n > 0) {
		struct cursor name = vector(&list, 1);

		c->bad |= name.left.n == 0;
		r->h->smtp |= span_eq(name.left, SPAN_LIT("smtp"));
	}
	c->bad |= list.bad;
}

static void read_versions(struct reading *r, struct cursor *c)
{
	struct cursor list = vector(c, 1);

	while (list.left.n > 0)
		r->h->tls13 |= number(&list, 2) == 0x0304;
	c->bad |= list.bad;
}

static void read_shares(struct reading *r, struct cursor *c)
{
	struct cursor list = vector(c, 2);
	uint16_t seen[SHARES_MAX];
	size_t n = 0;

	while (list.left.n > 0) {
		uint32_t group = number(&list, 2);

		(void)vector(&list, 2);
		for (size_t i = 0; i < n; i++)
			r->twice |= seen[i] == group;
		if (n == SHARES_MAX)
			r->twice = true; /* more than there are groups */
		else
			seen[n++] = (uint16_t)group;
		if (r->twice)
			return;
	}
	c->bad |= list.bad;
}

static const struct {
	uint16_t type;
	void (*read)(struct reading *r, struct cursor *c);
} known[] = {
	{EXT_SERVER_NAME, read_server_name},
	{EXT_SIGNATURE_ALGORITHMS, read_schemes},
	{EXT_ALPN, read_protocols},
	{EXT_SUPPORTED_VERSIONS, read_versions},
	{EXT_KEY_SHARE, read_shares},
};

static bool read_extensions(struct reading *r, struct cursor *all)
{
	unsigned seen = 0;

	while (all->left.n > 0) {
		uint32_t type = number(all, 2);
		struct cursor c = vector(all, 2);

		if (all->bad)
			return false;
		for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
			if (known[i].type != type)
				continue;
			if (seen & 1u << i) {
				r->twice = true;
				return true;
			}
			seen |= 1u << i;
			known[i].read(r, &c);
			if (c.bad || c.left.n > 0)
				return false;
		}
	}
	return true;
}

static bool read_message(struct reading *r, struct span message)
{
	struct cursor c = {.left = span_drop(message, 4)}, suites, exts;

	(void)octets(&c, 2 + 32); /* version, random */
	(void)vector(&c, 1);	  /* session id */
	suites = vector(&c, 2);
	(void)vector(&c, 1); /* compression */
	while (suites.left.n > 0)
		note_suite(&r->can, number(&suites, 2));
	if (c.bad || suites.bad)
		return false;
	if (c.left.n == 0)
		return true;
	exts = vector(&c, 2);
	return !c.bad && c.left.n == 0 && read_extensions(r, &exts);
}

enum hello_result hello_read(struct span wire, uint8_t *scratch, struct hello *h)
{
	struct reading r = {.h = h};
	enum hello_result res;
	size_t n;

	*h = (struct hello){.sni = SPAN_NONE};
	res = first_look(wire, h);
	if (res == HELLO_WHOLE)
		res = unwrap(wire, scratch, &n, h);
	if (res != HELLO_WHOLE)
		return res;
	if (!read_message(&r, span_of(scratch, n)))
		return bad(h, DECODE_ERROR);
	if (r.twice)
		return bad(h, ILLEGAL_PARAMETER);
	h->tls13 = h->tls13 && r.can.suites_13;
	h->kinds = kinds_of(&r.can, h->tls13);
	return HELLO_WHOLE;
}

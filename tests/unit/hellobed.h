/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ClientHellos made by hand, for the tests of tls/: the parts that matter can be set, left out and
 * put in twice.
 */
#ifndef TESTS_UNIT_HELLOBED_H
#define TESTS_UNIT_HELLOBED_H

#include "ring/base.h"

struct octets {
	uint8_t p[40000];
	size_t n;
};

static inline void put(struct octets *o, uint32_t v, unsigned width)
{
	while (width-- > 0)
		o->p[o->n++] = (uint8_t)(v >> (8 * width));
}

static inline void put_run(struct octets *o, const void *p, size_t n)
{
	memcpy(o->p + o->n, p, n);
	o->n += n;
}

/* Opens a vector with a length of `width` octets; close_vector() writes that. */
static inline size_t open_vector(struct octets *o, unsigned width)
{
	put(o, 0, width);
	return o->n;
}

static inline void close_vector(struct octets *o, size_t at, unsigned width)
{
	size_t n = o->n - at;

	for (unsigned i = 1; i <= width; i++, n >>= 8)
		o->p[at - i] = (uint8_t)n;
}

struct hello_form {
	uint16_t version;     /* 0: 0x0303 */
	const char *sni;      /* NULL: none */
	size_t sni_n;	      /* 0: strlen */
	const char *alpn[4];  /* ends with NULL */
	uint16_t suites[8];   /* ends with 0; none: one of 1.3 and two of 1.2 */
	uint16_t schemes[8];  /* ends with 0; first 0: a usual list */
	uint16_t shares[70];  /* ends with 0 */
	uint16_t versions[4]; /* ends with 0 */
	uint16_t twice;	      /* an empty extension of this type plus 1 is put in twice */
	size_t padding;	      /* of an extension nobody knows */
	bool no_schemes, no_extensions;
};

static inline void put_names(struct octets *o, const struct hello_form *f)
{
	size_t ext, list, name;

	put(o, 0, 2);
	ext = open_vector(o, 2);
	list = open_vector(o, 2);
	put(o, 0, 1);
	name = open_vector(o, 2);
	put_run(o, f->sni, f->sni_n ? f->sni_n : strlen(f->sni));
	close_vector(o, name, 2);
	close_vector(o, list, 2);
	close_vector(o, ext, 2);
}

static inline void put_numbers(struct octets *o, uint16_t type, const uint16_t *v, unsigned width)
{
	size_t ext, list;

	put(o, type, 2);
	ext = open_vector(o, 2);
	list = open_vector(o, width);
	for (; *v; v++)
		put(o, *v, 2);
	close_vector(o, list, width);
	close_vector(o, ext, 2);
}

static inline void put_alpn(struct octets *o, const struct hello_form *f)
{
	size_t ext, list;

	put(o, 16, 2);
	ext = open_vector(o, 2);
	list = open_vector(o, 2);
	for (const char *const *a = f->alpn; *a != NULL; a++) {
		put(o, (uint32_t)strlen(*a), 1);
		put_run(o, *a, strlen(*a));
	}
	close_vector(o, list, 2);
	close_vector(o, ext, 2);
}

static inline void put_shares(struct octets *o, const struct hello_form *f)
{
	size_t ext, list;

	put(o, 51, 2);
	ext = open_vector(o, 2);
	list = open_vector(o, 2);
	for (const uint16_t *g = f->shares; *g; g++) {
		put(o, *g, 2);
		put(o, 4, 2);
		put(o, 0xdeadbeef, 4);
	}
	close_vector(o, list, 2);
	close_vector(o, ext, 2);
}

static inline void put_extensions(struct octets *o, const struct hello_form *f)
{
	static const uint16_t usual[] = {0x0403, 0x0804, 0x0401, 0};
	size_t all = open_vector(o, 2);

	for (unsigned i = 0; f->twice != 0 && i < 2; i++) {
		put(o, f->twice - 1u, 2);
		put(o, 2, 2); /* an empty list */
		put(o, 0, 2);
	}
	if (f->sni != NULL)
		put_names(o, f);
	if (!f->no_schemes)
		put_numbers(o, 13, f->schemes[0] ? f->schemes : usual, 2);
	if (f->alpn[0] != NULL)
		put_alpn(o, f);
	if (f->versions[0])
		put_numbers(o, 43, f->versions, 1);
	if (f->shares[0])
		put_shares(o, f);
	if (f->padding > 0) {
		put(o, 21, 2);
		put(o, (uint32_t)f->padding, 2);
		memset(o->p + o->n, 0, f->padding);
		o->n += f->padding;
	}
	close_vector(o, all, 2);
}

/* The handshake message, without records. */
static inline void make_message(struct octets *o, const struct hello_form *f)
{
	static const uint16_t usual[] = {0x1301, 0xc02b, 0xc02f, 0};
	size_t message, suites;

	o->n = 0;
	put(o, 1, 1);
	message = open_vector(o, 3);
	put(o, f->version ? f->version : 0x0303, 2);
	for (unsigned i = 0; i < 32; i++)
		put(o, i, 1);
	put(o, 0, 1); /* no session */
	suites = open_vector(o, 2);
	for (const uint16_t *s = f->suites[0] ? f->suites : usual; *s; s++)
		put(o, *s, 2);
	close_vector(o, suites, 2);
	put(o, 0x0100, 2); /* no compression */
	if (!f->no_extensions)
		put_extensions(o, f);
	close_vector(o, message, 3);
}

/* In records of at most `piece` octets. */
static inline void wrap(struct octets *out, const struct octets *message, size_t piece)
{
	out->n = 0;
	for (size_t at = 0; at < message->n; at += piece) {
		size_t n = MIN_OF(piece, message->n - at);

		put(out, 22, 1);
		put(out, 0x0301, 2);
		put(out, (uint32_t)n, 2);
		put_run(out, message->p + at, n);
	}
}

static inline void make_hello(struct octets *out, const struct hello_form *f)
{
	static struct octets message;

	make_message(&message, f);
	wrap(out, &message, 16384);
}

#endif

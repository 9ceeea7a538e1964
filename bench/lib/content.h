/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Message content as both tools know it: dot-stuffing off the wire, the check header, made-up
 * messages. Pure but for maker_init(), which allocates once at start. Resumable at every octet.
 *
 * The check: "X-Ringpost-Id" names the message, "X-Ringpost-Hash" is the FNV-1a 64 of all octets
 * behind the empty line that ends the header section (dot-stuffing undone). A relay may put header
 * lines on top.
 */
#ifndef BENCH_CONTENT_H
#define BENCH_CONTENT_H

#include "ring/base.h"

/* ---- FNV-1a, 64 bits ---- */

#define HASH_START 0xcbf29ce484222325ull
uint64_t hash_more(uint64_t h, struct span data);
/* Two at once over the same octets, in the time of one: each octet waits for the one before it, so
 * one alone leaves the CPU idle. */
void hash_both(uint64_t *a, uint64_t *b, struct span data);

/* The same octets behind many beginnings, again and again: read at most 256 times in all. */
struct hash_end {
	struct span data; /* borrowed */
	uint64_t power;	  /* of the prime, by data.n */
	uint64_t add[256];
	bool known[256];
};
void hash_end_init(struct hash_end *e, struct span data);
uint64_t hash_end_more(struct hash_end *e, uint64_t h); /* hash_more(h, e->data) */

/* ---- off the wire: DATA's dot-stuffing (RFC 5321 4.5.2) ---- */

struct unstuff {
	uint8_t state; /* private; 0 at the start */
};

typedef void content_sink(void *arg, struct span piece);

/* Feed everything the end-of-data scanner used, the final dot included: emits the content in order,
 * without stuffed dots and the final ".CRLF". Only CRLF makes a line. */
void unstuff_feed(struct unstuff *u, struct span in, content_sink *emit, void *arg);

/* ---- reading ---- */

#define CONTENT_ID_BYTES 48
#define CONTENT_LINE_BYTES 96

enum content_check { CHECK_NONE, CHECK_OK, CHECK_BAD };

struct content {
	uint64_t bytes;
	uint64_t hash_all, hash_body;
	uint64_t hash_want;
	bool has_want, in_body;
	bool whole;	  /* hash_all is wanted */
	bool check;	  /* and hash_body, where the message says what it should be */
	uint8_t line_len; /* of the header line being read, as far as it is kept */
	bool line_cut;
	char line[CONTENT_LINE_BYTES];
	char id[CONTENT_ID_BYTES]; /* NUL-terminated; "" when there is none */
};

void content_init(struct content *c, bool whole, bool check);
void content_feed(struct content *c, struct span piece);
enum content_check content_verdict(const struct content *c); /* CHECK_NONE without `check` */
extern const char *const content_check_words[];		     /* "none", "ok", "bad" */

/* ---- making ---- */

#define MAKER_HEAD_BYTES 512

struct maker {
	uint8_t *raw, *wire; /* the part all messages share; wire: dot-stuffed and with the final
				".CRLF" */
	size_t raw_len, wire_len;
	size_t head_len; /* of the part each message has for itself; 0 without the check headers */
	struct hash_end end; /* raw */
	char run[17];	     /* first half of the ids */
};

/* Messages of `size` octets (content: header section included, dot-stuffing not); rounded up to
 * what the header lines of the check need, and to a whole CRLF. False: no memory. */
bool maker_init(struct maker *m, size_t size, bool checked, const char *run) MUST_USE;
void maker_fini(struct maker *m);
static inline size_t maker_bytes(const struct maker *m)
{
	return m->head_len + m->raw_len;
}
/* "run-0000000012" */
void maker_id(const struct maker *m, uint64_t number, char out[CONTENT_ID_BYTES]);
/* Writes message `number`'s own part into out[MAKER_HEAD_BYTES]; returns head_len. It holds no line
 * that needs dot-stuffing. */
size_t maker_head(struct maker *m, uint64_t number, char *out);

/* Writes `text` with %m (message), %r (recipient), %c (connection) and %% expanded into out[max],
 * NUL-terminated. False: does not fit, or another letter behind %. */
bool template_expand(const char *text, uint64_t message, uint64_t recipient, uint64_t connection,
	char *out, size_t max) MUST_USE;
/* True if the result depends on the message or the connection. */
bool template_varies(const char *text);

#endif

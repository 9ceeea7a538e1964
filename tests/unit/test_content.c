/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the bench tools know about messages: undoing dot-stuffing at every split against a naive
 * reference, made-up messages of exactly the size asked for, the check header, templates.
 */
#include "bench/lib/content.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

struct out {
	uint8_t p[64];
	size_t n;
};

static void collect(void *arg, struct span piece)
{
	struct out *o = arg;

	ASSERT(o->n + piece.n <= sizeof(o->p));
	memcpy(o->p + o->n, piece.p, piece.n);
	o->n += piece.n;
}

/* Line by line, as RFC 5321 4.5.2 words it. True: the end was there, *out is the content. */
static bool reference(const uint8_t *p, size_t n, struct out *o)
{
	o->n = 0;
	for (size_t at = 0; at < n;) {
		size_t end = at;

		while (end + 1 < n && !(p[end] == '\r' && p[end + 1] == '\n'))
			end++;
		if (end + 1 >= n)
			return false;
		if (end - at == 1 && p[at] == '.')
			return end + 2 == n;
		size_t skip = p[at] == '.' ? 1 : 0;
		collect(o, span_of(p + at + skip, end + 2 - at - skip));
		at = end + 2;
	}
	return false;
}

static void try_splits(const uint8_t *p, size_t n, const struct out *want)
{
	for (size_t a = 0; a <= n; a++) {
		for (size_t b = a; b <= n; b++) {
			struct unstuff u = {0};
			struct out got = {.n = 0};

			unstuff_feed(&u, span_of(p, a), collect, &got);
			unstuff_feed(&u, span_of(p + a, b - a), collect, &got);
			unstuff_feed(&u, span_of(p + b, n - b), collect, &got);
			cr_assert_eq(got.n, want->n, "%.*s split at %zu, %zu", (int)n, p, a, b);
			cr_assert_eq(memcmp(got.p, want->p, got.n), 0);
		}
	}
}

Test(unstuff, every_string_that_ends_at_every_split)
{
	static const uint8_t alphabet[] = {'\r', '\n', '.', 'a'};
	static const uint8_t end[] = "\r\n.\r\n";
	unsigned tried = 0;

	for (size_t len = 0; len <= 6; len++) {
		for (uint32_t code = 0; code < 1u << (2 * len); code++) {
			uint8_t text[16];
			struct out want;

			for (size_t i = 0; i < len; i++)
				text[i] = alphabet[code >> (2 * i) & 3];
			memcpy(text + len, end, 5);
			if (!reference(text, len + 5, &want))
				continue; /* it ends earlier */
			try_splits(text, len + 5, &want);
			tried++;
		}
	}
	cr_assert_gt(tried, 4000);
}

Test(unstuff, the_empty_message)
{
	struct out want = {.n = 0};

	try_splits((const uint8_t *)".\r\n", 3, &want);
}

static void add_to_content(void *arg, struct span piece)
{
	content_feed(arg, piece);
}

/* Sends message `number` as DATA would, in pieces of `step`, and reads it back. */
static void send_and_read(struct maker *m, uint64_t number, size_t step, struct content *c)
{
	char head[MAKER_HEAD_BYTES];
	struct unstuff u = {0};

	content_init(c, true, true);
	size_t n = m->head_len ? maker_head(m, number, head) : 0;
	cr_assert_eq(n, m->head_len);
	unstuff_feed(&u, span_of(head, n), add_to_content, c);
	for (size_t at = 0; at < m->wire_len; at += step)
		unstuff_feed(&u, span_of(m->wire + at, MIN_OF(step, m->wire_len - at)),
			add_to_content, c);
}

/* Nothing but whole lines, and no line end but CRLF. */
static bool clean_lines(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((p[i] == '\r') != (i + 1 < n && p[i + 1] == '\n'))
			return false;
	return n == 0 || p[n - 1] == '\n';
}

Test(maker, sizes_are_exact)
{
	for (size_t size = 0; size < 2500; size++) {
		struct maker m;
		struct content c;

		cr_assert(maker_init(&m, size, false, "r"));
		send_and_read(&m, 1, 100, &c);
		cr_assert_eq(maker_bytes(&m), size == 1 ? 2 : size);
		cr_assert_eq(c.bytes, maker_bytes(&m), "%zu", size);
		cr_assert(clean_lines(m.raw, m.raw_len), "%zu", size);
		cr_assert_eq(c.hash_all, hash_more(HASH_START, span_of(m.raw, m.raw_len)));
		maker_fini(&m);
	}
}

Test(maker, has_lines_to_stuff_and_none_too_long)
{
	struct maker m;
	size_t line = 0;

	cr_assert(maker_init(&m, 100000, false, "r"));
	cr_assert_gt(m.wire_len, m.raw_len + 3 + 10);
	for (size_t i = 0; i < m.raw_len; i++) {
		line = m.raw[i] == '\n' ? 0 : line + 1;
		cr_assert_leq(line, 77);
	}
	cr_assert_eq(line, 0);
	maker_fini(&m);
}

Test(content, check_is_ok_and_notices_one_wrong_octet)
{
	struct maker m;
	struct content c;

	cr_assert(maker_init(&m, 5000, true, "run"));
	for (uint64_t number = 0; number < 50; number++) {
		char id[CONTENT_ID_BYTES];

		send_and_read(&m, number, 1 + number * 7, &c);
		maker_id(&m, number, id);
		cr_assert_eq(c.bytes, 5000);
		cr_assert_str_eq(c.id, id);
		cr_assert_eq(content_verdict(&c), CHECK_OK);
	}
	uint8_t kept = m.wire[2000];
	m.wire[2000] = (uint8_t)(kept ^ 1);
	char head[MAKER_HEAD_BYTES];
	content_init(&c, false, true);
	content_feed(&c, span_of(head, maker_head(&m, 1, head)));
	struct unstuff u = {0};
	unstuff_feed(&u, span_of(m.wire, m.wire_len), add_to_content, &c);
	cr_assert_eq(content_verdict(&c), CHECK_BAD);
	maker_fini(&m);
}

Test(content, header_lines_on_top_do_not_matter)
{
	struct maker m;
	struct content c;
	char head[MAKER_HEAD_BYTES], junk[300];

	cr_assert(maker_init(&m, 500, true, "run"));
	memset(junk, 'x', sizeof(junk));
	content_init(&c, true, true);
	content_feed(&c, SPAN_LIT("Received: from somewhere\r\n"));
	content_feed(&c, span_of(junk, sizeof(junk)));
	content_feed(&c, SPAN_LIT(": long\r\n"));
	content_feed(&c, span_of(head, maker_head(&m, 7, head)));
	content_feed(&c, span_of(m.raw, m.raw_len));
	cr_assert_eq(content_verdict(&c), CHECK_OK);
	maker_fini(&m);
}

Test(content, without_header_there_is_no_verdict)
{
	struct content c;

	content_init(&c, true, true);
	content_feed(&c, SPAN_LIT("Subject: x\r\n\r\nX-Ringpost-Hash: 0123456789abcdef\r\n"));
	cr_assert_eq(content_verdict(&c), CHECK_NONE);
	cr_assert_eq(c.id[0], '\0');
}

/* What is not wanted is not read; what is wanted does not depend on the rest, nor on the pieces. */
Test(content, hashes_only_what_is_wanted)
{
	static const char head[] = "X-Ringpost-Id: i\r\nX-Ringpost-Hash: 85944171f73967e8\r\n\r\n";
	uint64_t whole = hash_more(hash_more(HASH_START, span_str(head)), SPAN_LIT("foobar"));

	for (size_t cut = 0; cut < sizeof(head) + 5; cut++)
		for (unsigned wants = 0; wants < 4; wants++) {
			char text[sizeof(head) + 6];
			struct content c;

			snprintf(text, sizeof(text), "%sfoobar", head);
			content_init(&c, wants & 1, wants & 2);
			content_feed(&c, span_of(text, cut));
			content_feed(&c, span_of(text + cut, strlen(text) - cut));
			cr_assert_eq(c.hash_all, wants & 1 ? whole : HASH_START);
			cr_assert_eq(content_verdict(&c), wants & 2 ? CHECK_OK : CHECK_NONE);
			cr_assert_str_eq(c.id, "i");
		}
}

Test(hash, is_fnv_1a)
{
	cr_assert_eq(hash_more(HASH_START, SPAN_LIT("")), 0xcbf29ce484222325ull);
	cr_assert_eq(hash_more(HASH_START, SPAN_LIT("foobar")), 0x85944171f73967e8ull);
}

Test(hash, both_at_once_are_the_two)
{
	uint64_t a = HASH_START, b = 4711;

	hash_both(&a, &b, SPAN_LIT("foobar"));
	cr_assert_eq(a, hash_more(HASH_START, SPAN_LIT("foobar")));
	cr_assert_eq(b, hash_more(4711, SPAN_LIT("foobar")));
}

/* Every lowest octet twice: read, then remembered; octets above 127 as well. */
Test(hash, a_known_end_is_the_same_hash)
{
	uint8_t data[1000];
	uint64_t h = 1;

	for (size_t n = 0; n <= sizeof(data); n += 250) {
		struct hash_end e;

		for (size_t i = 0; i < n; i++)
			data[i] = (uint8_t)(i * 7 + n);
		hash_end_init(&e, span_of(data, n));
		for (unsigned i = 0; i < 2000; i++) {
			h = h * 6364136223846793005ull + 1442695040888963407ull;
			cr_assert_eq(
				hash_end_more(&e, h >> 8), hash_more(h >> 8, span_of(data, n)));
		}
	}
}

Test(templates, expand)
{
	char out[32];

	cr_assert(template_expand("a%m-%r-%c%%@x", 12, 3, 4, out, sizeof(out)));
	cr_assert_str_eq(out, "a12-3-4%@x");
	cr_assert(template_expand("", 1, 1, 1, out, sizeof(out)));
	cr_assert_str_eq(out, "");
	cr_assert_not(template_expand("%q", 1, 1, 1, out, sizeof(out)));
	cr_assert_not(template_expand("%", 1, 1, 1, out, sizeof(out)));
	cr_assert_not(template_expand("a23456789%m", 1234, 0, 0, out, 13));
	cr_assert(template_expand("a23456789%m", 1234, 0, 0, out, 14));
	cr_assert(template_varies("x%m"));
	cr_assert(template_varies("x%%%c"));
	cr_assert_not(template_varies("x%%m%r"));
}

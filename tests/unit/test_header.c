/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The header of a message (engine/smtp/header.h). Every string over {CR, LF, ' ', ':', 'a'} up to
 * MAX_LENGTH, alone and behind what an envelope line begins with, cut into up to three pieces in
 * every way, is compared with a naive reading that sees all of it at once: where the header ends,
 * whether it ends, what its fields are. Then every change of every short block against one that is
 * put together anew, and examples.
 */
#include <criterion/criterion.h>

#include "engine/smtp/header.h"

/* Sanitizers and unoptimized code are slower: shorter strings there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define MAX_LENGTH 6
#else
#define MAX_LENGTH 7
#endif
#define PREFIX_MAX 12
#define FIELDS_MAX 16
#define ROOM 64

static const char alphabet[5] = {'\r', '\n', ' ', ':', 'a'};
static const char *const prefixes[] = {
	"", "F", "Fro", "From", "From ", "from ", "From:", ">From ", "a:\r\nFrom "};

/* Writes string number k of `length` octets; false behind the last one. */
static bool nth_string(uint32_t k, size_t length, uint8_t *w)
{
	for (size_t i = 0; i < length; i++, k /= 5)
		w[i] = (uint8_t)alphabet[k % 5];
	return k == 0;
}

/* ---- the naive reading ---- */

struct ref {
	size_t block;	/* octets of the header */
	size_t from;	/* of an envelope line */
	size_t tail;	/* of the empty line: 2 or 0 */
	bool done;	/* ... and nothing that follows could change it */
	unsigned count; /* fields */
	struct header_field fields[FIELDS_MAX];
};

static bool blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

/* Up to and including the next CRLF. */
static size_t ref_line(struct span s, bool *finished)
{
	for (size_t i = 1; i < s.n; i++) {
		if (s.p[i - 1] == '\r' && s.p[i] == '\n') {
			*finished = true;
			return i + 1;
		}
	}
	*finished = false;
	return s.n;
}

/* name, blanks: offsets behind them. */
static void ref_head(struct span line, size_t *name, size_t *blanks)
{
	size_t i = 0;

	while (i < line.n && line.p[i] > 32 && line.p[i] < 127 && line.p[i] != ':')
		i++;
	*name = i;
	while (i < line.n && blank(line.p[i]))
		i++;
	*blanks = i;
}

static struct ref ref_read(struct span w)
{
	struct ref r = {0};
	bool field = false, finished;

	for (size_t n; r.block < w.n; r.block += n) {
		struct span line = span_drop(w, r.block);
		size_t name, blanks;

		n = line.n = ref_line(line, &finished);
		ref_head(line, &name, &blanks);
		if (span_eq(line, SPAN_LIT("\r\n"))) {
			r.block += 2;
			r.tail = 2;
			r.done = true;
			return r;
		}
		if (name > 0 && blanks < line.n && line.p[blanks] == ':') {
			struct header_field *f = &r.fields[r.count++];

			ASSERT(r.count < FIELDS_MAX);
			f->whole = line;
			f->name = span_of(line.p, name);
			f->value = span_drop(line, blanks + 1);
			field = true;
		} else if (field && blank(line.p[0])) {
			r.fields[r.count - 1].whole.n += n;
			r.fields[r.count - 1].value.n += n;
		} else if (r.block == 0 && n >= 5 && memcmp(line.p, "From ", 5) == 0) {
			r.from = n;
		} else {
			bool cr = span_eq(line, SPAN_LIT("\r"));

			r.done = finished || !(cr || (name > 0 && blanks == line.n));
			return r;
		}
	}
	return r;
}

/* ---- where it ends ---- */

static void try_cut(struct span w, const struct ref *want, size_t a, size_t b)
{
	const struct span pieces[] = {span_of(w.p, a), span_of(w.p + a, b - a), span_drop(w, b)};
	struct header_scan s = {0};
	size_t sum = 0;
	bool done = false;

	for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
		size_t n = header_feed(&s, pieces[i], &done);

		cr_assert(n <= pieces[i].n && (done || n == pieces[i].n));
		sum += n;
	}
	cr_assert(sum - s.undecided == want->block && done == want->done,
		"\"%.*s\" cut at %zu and %zu: %zu - %zu, %d; not %zu, %d", (int)w.n, w.p, a, b, sum,
		s.undecided, done, want->block, want->done);
}

static void try_fields(struct span w, const struct ref *want)
{
	struct span rest = span_of(w.p, want->block);
	struct header_field f;

	for (unsigned i = 0; i < want->count; i++) {
		const struct header_field *ref = &want->fields[i];
		struct span value = ref->value;

		if (value.n >= 2 && memcmp(value.p + value.n - 2, "\r\n", 2) == 0)
			value.n -= 2;
		cr_assert(header_next(&rest, &f), "\"%.*s\"", (int)w.n, w.p);
		cr_assert(f.whole.p == ref->whole.p && f.whole.n == ref->whole.n &&
				  f.name.p == ref->name.p && f.name.n == ref->name.n &&
				  f.value.p == value.p && f.value.n == value.n,
			"\"%.*s\", field %u", (int)w.n, w.p, i);
	}
	cr_assert(!header_next(&rest, &f) && rest.n == want->tail, "\"%.*s\"", (int)w.n, w.p);
	cr_assert(rest.p + rest.n == w.p + want->block);
}

static void each_string(size_t max, void (*try)(struct span w))
{
	uint8_t w[PREFIX_MAX + MAX_LENGTH];

	for (size_t k = 0; k < ARRAY_LEN(prefixes); k++) {
		size_t prefix = strlen(prefixes[k]), longest = prefix > 0 ? max - 1 : max;

		ASSERT(prefix <= PREFIX_MAX);
		memcpy(w, prefixes[k], prefix);
		for (size_t length = 0; length <= longest; length++)
			for (uint32_t i = 0; nth_string(i, length, w + prefix); i++)
				try(span_of(w, prefix + length));
	}
}

static void try_reading(struct span w)
{
	struct ref want = ref_read(w);

	for (size_t a = 0; a <= w.n; a++)
		for (size_t b = a; b <= w.n; b++)
			try_cut(w, &want, a, b);
	try_fields(w, &want);
}

Test(header, every_string_every_cut, .timeout = 300)
{
	each_string(MAX_LENGTH, try_reading);
}

/* The pieces of a whole message, one octet each. */
Test(header, octet_by_octet)
{
	static const char text[] =
		"From me\r\nReceived: a\r\n\tb\r\n \r\nSubject : =?x?=\n\r\r\n\r\nBody: no\r\n";
	struct span w = span_of(text, sizeof(text) - 1);
	struct header_scan s = {0};
	size_t sum = 0;
	bool done = false;

	for (size_t i = 0; i < w.n; i++) {
		size_t n = header_feed(&s, span_of(w.p + i, 1), &done);

		cr_assert_eq(n, sum < w.n - 10 ? 1 : 0, "%zu", i);
		sum += n;
		cr_assert_eq(done, i >= w.n - 11, "%zu", i);
	}
	cr_expect(sum == w.n - 10 && s.undecided == 0, "%zu %zu", sum, s.undecided);
}

/* What the alphabet above has not. */
Test(header, octets_of_a_name)
{
	for (unsigned c = 0; c < 256; c++) {
		uint8_t w[] = {'x', (uint8_t)c, 'y', ':', '\r', '\n'};
		bool name = c > ' ' && c < 127 && c != ':', done;
		struct header_scan s = {0};
		struct header_field f;
		struct span rest = span_of(w, sizeof(w));
		size_t n = header_feed(&s, rest, &done);

		cr_expect_eq(header_name_valid(span_of(w, 3)), name, "%u", c);
		/* "x:y:" is a field as well; a blank may only stand before the colon. */
		cr_expect_eq(n, name || c == ':' ? sizeof(w) : 0, "%u", c);
		cr_expect_eq(header_next(&rest, &f), name || c == ':', "%u", c);
	}
	cr_expect(!header_name_valid(SPAN_NONE));
	cr_expect(header_name_valid(SPAN_LIT("!~")));
}

/* A name that does not end is no header until its colon comes. */
Test(header, long_undecided)
{
	static uint8_t piece[1000];
	struct header_scan s = {0};
	bool done;

	memset(piece, 'x', sizeof(piece));
	cr_expect_eq(header_feed(&s, SPAN_LIT("A: b\r\n"), &done), 6);
	for (size_t i = 1; i <= 100; i++) {
		cr_expect_eq(header_feed(&s, span_of(piece, sizeof(piece)), &done), 1000);
		cr_expect(!done && s.undecided == i * 1000);
	}
	cr_expect_eq(header_feed(&s, SPAN_LIT(" \t"), &done), 2);
	cr_expect_eq(s.undecided, 100002);
	struct header_scan t = s;
	cr_expect_eq(header_feed(&s, SPAN_LIT(": c\r\n"), &done), 5);
	cr_expect(!done && s.undecided == 0);
	cr_expect_eq(header_feed(&t, SPAN_LIT("y: c\r\n\r\n"), &done), 0);
	cr_expect(done && t.undecided == 100002);
	cr_expect_eq(header_feed(&t, SPAN_LIT("z"), &done), 0);
	cr_expect(done && t.undecided == 100002);
}

/* ---- changes against blocks that are put together anew ---- */

#define NEW_NAME SPAN_LIT("AA")
#define NEW_VALUE SPAN_LIT(" b\r\n c")
#define NEW_FIELD SPAN_LIT("AA: b\r\n c\r\n")

struct text {
	size_t n;
	uint8_t p[ROOM];
};

static void join(struct text *t, struct span s)
{
	ASSERT(s.n <= sizeof(t->p) - t->n);
	if (s.n > 0)
		memcpy(t->p + t->n, s.p, s.n);
	t->n += s.n;
}

static void join_fields(struct text *t, const struct ref *r, unsigned from, unsigned to)
{
	for (unsigned i = from; i < MIN_OF(to, r->count); i++)
		join(t, r->fields[i].whole);
}

static void join_new(struct text *t)
{
	if (t->n > 0 && (t->n < 2 || memcmp(t->p + t->n - 2, "\r\n", 2) != 0))
		join(t, SPAN_LIT("\r\n"));
	join(t, NEW_FIELD);
}

static struct text with_inserted(struct span w, const struct ref *r, unsigned index)
{
	struct text t = {0};

	join(&t, span_of(w.p, r->from));
	join_fields(&t, r, 0, index);
	join_new(&t);
	join_fields(&t, r, index, r->count);
	join(&t, span_of(w.p + r->block - r->tail, r->tail));
	return t;
}

/* The place of the index-th field called `name`, from 1; r->count: there is none. */
static unsigned place_of(const struct ref *r, unsigned index, const char *name)
{
	unsigned i = 0;

	for (; i < r->count; i++)
		if (span_eq(r->fields[i].name, span_str(name)) && --index == 0)
			break;
	return i;
}

static struct text with_changed(
	struct span w, const struct ref *r, unsigned index, struct span name)
{
	unsigned at = place_of(r, index, name.n > 1 ? "aa" : "a");
	const struct header_field *f = &r->fields[at];
	struct span end = SPAN_LIT("\r\n");
	struct text t = {0};

	if (at == r->count)
		return with_inserted(w, r, r->count);
	join(&t, span_of(w.p, (size_t)(f->value.p - w.p)));
	join(&t, NEW_VALUE);
	if (f->whole.n >= 2 && memcmp(f->whole.p + f->whole.n - 2, "\r\n", 2) == 0)
		join(&t, end);
	join_fields(&t, r, at + 1, r->count);
	join(&t, span_of(w.p + r->block - r->tail, r->tail));
	return t;
}

static struct text with_deleted(
	struct span w, const struct ref *r, unsigned index, struct span name)
{
	unsigned at = place_of(r, index, name.n > 1 ? "aa" : "a");
	struct text t = {0};

	join(&t, span_of(w.p, r->from));
	join_fields(&t, r, 0, at);
	join_fields(&t, r, at + 1, r->count);
	join(&t, span_of(w.p + r->block - r->tail, r->tail));
	return t;
}

enum change { INSERT, APPEND, CHANGE, DELETE };

static bool apply(struct header_block *b, enum change what, unsigned index, struct span name)
{
	switch (what) {
	case INSERT:
		return header_insert(b, index, name, NEW_VALUE);
	case APPEND:
		return header_append(b, name, NEW_VALUE);
	case CHANGE:
		return header_change(b, index, name, NEW_VALUE);
	default:
		header_delete(b, index, name);
		return true;
	}
}

/* Into just enough room, and into one octet less. */
static void try_change(
	struct span w, enum change what, unsigned index, struct span name, const struct text *want)
{
	struct header_block b;

	for (size_t less = 0; less <= (what == DELETE ? 0 : 1); less++) {
		uint8_t p[ROOM];
		size_t max = MAX_OF(want->n, w.n) - less;

		memset(p, '#', sizeof(p));
		memcpy(p, w.p, w.n);
		b = (struct header_block){p, w.n, max};
		if (less > 0 && (want->n <= w.n || max < w.n))
			continue;
		cr_assert_eq(apply(&b, what, index, name), less == 0);
		cr_assert_eq(p[max], '#');
		if (less > 0)
			cr_assert(b.n == w.n && memcmp(p, w.p, w.n) == 0);
		else
			cr_assert(b.n == want->n && memcmp(p, want->p, b.n) == 0,
				"%d %u in \"%.*s\": \"%.*s\", not \"%.*s\"", what, index, (int)w.n,
				w.p, (int)b.n, p, (int)want->n, want->p);
	}
}

static void try_changes(struct span w)
{
	struct ref r = ref_read(w);
	struct span names[] = {SPAN_LIT("A"), NEW_NAME};
	struct text want;

	w.n = r.block;
	for (unsigned index = 0; index <= 3; index++) {
		want = with_inserted(w, &r, index);
		try_change(w, INSERT, index, NEW_NAME, &want);
	}
	want = with_inserted(w, &r, r.count);
	try_change(w, APPEND, 0, NEW_NAME, &want);
	for (unsigned index = 1; index <= 3; index++) {
		/* One that is appended is called "AA" in the reference. */
		want = with_changed(w, &r, index, NEW_NAME);
		try_change(w, CHANGE, index, NEW_NAME, &want);
		if (place_of(&r, index, "a") < r.count) {
			want = with_changed(w, &r, index, names[0]);
			try_change(w, CHANGE, index, names[0], &want);
		}
		for (size_t k = 0; k < ARRAY_LEN(names); k++) {
			want = with_deleted(w, &r, index, names[k]);
			try_change(w, DELETE, index, names[k], &want);
		}
	}
}

Test(header, every_block_every_change, .timeout = 300)
{
	each_string(6, try_changes);
}

/* Blocks with several fields, which strings of six octets have not. */
Test(header, blocks_of_lines_every_change)
{
	static const char *const lines[] = {
		"a:1\r\n", "aa :2\r\n", "a:\r\n", "b:3\r\n a:4\r\n", "\r\n", "aa:5", "From x\r\n"};
	uint8_t w[ROOM];

	for (size_t a = 0; a < ARRAY_LEN(lines); a++) {
		for (size_t b = 0; b < ARRAY_LEN(lines); b++) {
			for (size_t c = 0; c < ARRAY_LEN(lines); c++) {
				int n = snprintf((char *)w, sizeof(w), "%s%s%s", lines[a], lines[b],
					lines[c]);

				try_changes(span_of(w, (size_t)n));
			}
		}
	}
}

/* ---- examples ---- */

struct example {
	const char *text;
	enum change what;
	uint32_t index;
	const char *name, *value, *want;
};

static const struct example examples[] = {
	/* the top, between, behind the last one, far behind it */
	{"A: 1\r\nB: 2\r\n\r\n", INSERT, 0, "X", " y", "X: y\r\nA: 1\r\nB: 2\r\n\r\n"},
	{"A: 1\r\nB: 2\r\n\r\n", INSERT, 1, "X", " y", "A: 1\r\nX: y\r\nB: 2\r\n\r\n"},
	{"A: 1\r\nB: 2\r\n\r\n", INSERT, 2, "X", " y", "A: 1\r\nB: 2\r\nX: y\r\n\r\n"},
	{"A: 1\r\nB: 2\r\n\r\n", INSERT, 100000, "X", "y", "A: 1\r\nB: 2\r\nX:y\r\n\r\n"},
	/* a folded field is one */
	{"A: 1\r\n 2\r\n\t3\r\nB: 4\r\n\r\n", INSERT, 1, "X", " y",
		"A: 1\r\n 2\r\n\t3\r\nX: y\r\nB: 4\r\n\r\n"},
	{"A: 1\r\n 2\r\n \r\nB: 4\r\n\r\n", DELETE, 1, "A", "", "B: 4\r\n\r\n"},
	{"A: 1\r\n 2\r\nB: 4\r\n\r\n", CHANGE, 1, "a", " 5\r\n 6", "A: 5\r\n 6\r\nB: 4\r\n\r\n"},
	/* an envelope stays first */
	{"From me Mon Jan 1 00:00:00\r\nA: 1\r\n\r\n", INSERT, 0, "X", " y",
		"From me Mon Jan 1 00:00:00\r\nX: y\r\nA: 1\r\n\r\n"},
	{"From me\r\n", APPEND, 0, "X", " y", "From me\r\nX: y\r\n"},
	{"From me", APPEND, 0, "X", " y", "From me\r\nX: y\r\n"},
	{"From : me\r\nA: 1\r\n", INSERT, 0, "X", " y", "X: y\r\nFrom : me\r\nA: 1\r\n"},
	{"From : me\r\nA: 1\r\n", CHANGE, 1, "From", " you", "From : you\r\nA: 1\r\n"},
	/* no fields, no empty line, nothing at all */
	{"\r\n", APPEND, 0, "X", " y", "X: y\r\n\r\n"},
	{"\r\n", INSERT, 0, "X", " y", "X: y\r\n\r\n"},
	{"", INSERT, 0, "X", " y", "X: y\r\n"},
	{"", APPEND, 0, "X", "", "X:\r\n"},
	{"", CHANGE, 1, "X", " y", "X: y\r\n"},
	{"", DELETE, 1, "X", "", ""},
	{"A: 1\r\n", APPEND, 0, "X", " y", "A: 1\r\nX: y\r\n"},
	{"A: 1", APPEND, 0, "X", " y", "A: 1\r\nX: y\r\n"},
	{"A: 1", INSERT, 0, "X", " y", "X: y\r\nA: 1"},
	{"A: 1\r", APPEND, 0, "X", " y", "A: 1\r\r\nX: y\r\n"},
	{"A: 1", CHANGE, 1, "A", " 2", "A: 2"},
	/* any case, blanks before the colon, the name as it is written */
	{"SubJect \t:x\r\n\r\n", CHANGE, 1, "subjecT", " y", "SubJect \t: y\r\n\r\n"},
	{"Subjects: x\r\n\r\n", DELETE, 1, "Subject", "", "Subjects: x\r\n\r\n"},
	/* the index counts fields of that name */
	{"A: 1\r\nB: 2\r\na: 3\r\nA: 4\r\n\r\n", DELETE, 2, "A", "",
		"A: 1\r\nB: 2\r\nA: 4\r\n\r\n"},
	{"A: 1\r\nB: 2\r\na: 3\r\nA: 4\r\n\r\n", CHANGE, 3, "A", " 5",
		"A: 1\r\nB: 2\r\na: 3\r\nA: 5\r\n\r\n"},
	{"A: 1\r\nB: 2\r\na: 3\r\n\r\n", CHANGE, 3, "A", " 5",
		"A: 1\r\nB: 2\r\na: 3\r\nA: 5\r\n\r\n"},
	{"A: 1\r\nB: 2\r\n\r\n", DELETE, 2, "A", "", "A: 1\r\nB: 2\r\n\r\n"},
	/* lone CR and LF, NUL's neighbours, octets above 127: what is not changed is the same */
	{"A: \xff\n\r \x01\r\nB: 2\r\n\r\n", CHANGE, 1, "B", "", "A: \xff\n\r \x01\r\nB:\r\n\r\n"},
};

Test(header, examples)
{
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		const struct example *x = &examples[i];
		uint8_t p[256];
		struct header_block b = {p, strlen(x->text), sizeof(p)};
		struct span name = span_str(x->name), value = span_str(x->value);
		bool good = true;

		memcpy(p, x->text, b.n);
		if (x->what == INSERT)
			good = header_insert(&b, x->index, name, value);
		else if (x->what == APPEND)
			good = header_append(&b, name, value);
		else if (x->what == CHANGE)
			good = header_change(&b, x->index, name, value);
		else
			header_delete(&b, x->index, name);
		cr_expect(good && span_eq(span_of(p, b.n), span_str(x->want)), "%zu: \"%.*s\"", i,
			(int)b.n, p);
	}
}

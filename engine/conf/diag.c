/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is wrong with a file, where: collected while it is read, printed at the end in the order of
 * the file as `file:line:column: error: message`, the source line and a caret.
 *
 * What comes from the file or the environment is shown without control characters: a message cannot
 * drive somebody's terminal. Lines and columns are libyaml's: CR, LF, CRLF, NEL, LS and PS end a
 * line, a column is one character (not octet).
 */
#include "engine/conf/conf_int.h"

#include <stdarg.h>

#define SHOWN_BYTES_MAX 72 /* of a value inside a message */
#define SOURCE_COLUMNS 110 /* of a source line */
#define SOURCE_BEFORE 80   /* columns kept before the caret of a longer one */

struct diag {
	struct diag *next;
	struct mark at;
	uint32_t order;
	bool warning;
	const char *text;
};

static void add(struct diags *d, struct mark at, bool warning, const char *fmt, va_list ap)
{
	struct diag *x;
	va_list again;
	int n;

	if (warning)
		d->warnings++;
	else
		d->errors++;
	if (d->stored == CONF_DIAGS_MAX)
		return;
	x = arena_alloc(d->tmp, sizeof(*x));
	x->at = at;
	x->warning = warning;
	x->order = d->stored++;
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	ASSERT(n >= 0);
	char *text = arena_alloc(d->tmp, (size_t)n + 1);
	vsnprintf(text, (size_t)n + 1, fmt, ap);
	x->text = text;
	if (d->last != NULL)
		d->last->next = x;
	else
		d->first = x;
	d->last = x;
}

void diag_error(struct diags *d, struct mark at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, at, false, fmt, ap);
	va_end(ap);
}

void diag_warn(struct diags *d, struct mark at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, at, true, fmt, ap);
	va_end(ap);
}

/* Overlong forms, surrogates and what lies beyond U+10FFFF: the second octet tells. */
static bool second_octet(uint8_t first, uint8_t second)
{
	switch (first) {
	case 0xe0:
		return second >= 0xa0;
	case 0xed:
		return second < 0xa0;
	case 0xf0:
		return second >= 0x90;
	case 0xf4:
		return second < 0x90;
	default:
		return true;
	}
}

size_t text_char(const uint8_t *p, const uint8_t *end)
{
	size_t n = *p < 0xc2 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 1;

	if ((size_t)(end - p) < n)
		return 1;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 1;
	return n == 1 || second_octet(p[0], p[1]) ? n : 1;
}

/* Controls (C0, DEL, C1), broken UTF-8, what changes the direction or the line of text, and what
 * YAML does not take as it is (U+FEFF, U+FFFE, U+FFFF). */
static bool hidden(const uint8_t *p, size_t n)
{
	if (n == 1)
		return *p < 0x20 || *p >= 0x7f;
	if (n == 2)
		return p[0] == 0xc2 && p[1] < 0xa0;
	if (n == 3 && p[0] == 0xe2)
		return (p[1] == 0x80 && p[2] >= 0x8b && p[2] <= 0xae) ||
		       (p[1] == 0x81 && p[2] >= 0xa0 && p[2] <= 0xaf);
	return n == 3 && p[0] == 0xef &&
	       ((p[1] == 0xbb && p[2] == 0xbf) || (p[1] == 0xbf && p[2] >= 0xbe));
}

const char *text_shown(struct arena *a, struct span s)
{
	const uint8_t *p = s.p, *end = s.p + s.n;
	char *out = arena_alloc(a, MIN_OF(s.n, (size_t)SHOWN_BYTES_MAX) + 8);
	size_t at = 0;

	while (p < end) {
		size_t n = text_char(p, end);

		if (at + n > SHOWN_BYTES_MAX) {
			memcpy(out + at, "...", 4);
			return out;
		}
		if (hidden(p, n))
			out[at++] = '?';
		else {
			memcpy(out + at, p, n);
			at += n;
		}
		p += n;
	}
	out[at] = 0;
	return out;
}

bool text_clean(struct span s)
{
	const uint8_t *p = s.p, *end = s.p + s.n;

	while (p < end) {
		size_t n = text_char(p, end);

		if (hidden(p, n))
			return false;
		p += n;
	}
	return true;
}

bool text_valid(struct span s)
{
	const uint8_t *p = s.p, *end = s.p + s.n;

	while (p < end) {
		size_t n = text_char(p, end);

		if (n == 1 && *p >= 0x80)
			return false;
		p += n;
	}
	return true;
}

/* Octets of the line break at p, or 0. */
static size_t break_len(const uint8_t *p, const uint8_t *end)
{
	size_t left = (size_t)(end - p);

	if (left >= 2 && p[0] == '\r' && p[1] == '\n')
		return 2;
	if (p[0] == '\r' || p[0] == '\n')
		return 1;
	if (left >= 2 && p[0] == 0xc2 && p[1] == 0x85)
		return 2;
	if (left >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
		return 3;
	return 0;
}

/* Where printing is in the source: diagnostics come by line, so it only goes forward. */
struct cursor {
	const uint8_t *p, *end;
	uint32_t line;
};

static void cursor_to(struct cursor *c, uint32_t line)
{
	while (c->line < line && c->p < c->end) {
		size_t n = break_len(c->p, c->end);

		c->p += n > 0 ? n : 1;
		if (n > 0)
			c->line++;
	}
}

static struct span cursor_line(const struct cursor *c)
{
	const uint8_t *p = c->p;

	while (p < c->end && break_len(p, c->end) == 0)
		p++;
	return span_of(c->p, (size_t)(p - c->p));
}

static void print_source(FILE *err, struct span line, uint32_t col)
{
	const uint8_t *p = line.p, *end = line.p + line.n;
	uint32_t skip = col > SOURCE_BEFORE + 1 ? col - SOURCE_BEFORE - 1 : 0;
	uint32_t at = 0, shown = 0;

	fputs(skip > 0 ? "  ..." : "  ", err);
	for (; p < end && shown < SOURCE_COLUMNS; at++) {
		size_t n = text_char(p, end);

		if (at >= skip) {
			if (hidden(p, n))
				fputc(*p == '\t' ? ' ' : '?', err);
			else
				fwrite(p, 1, n, err);
			shown++;
		}
		p += n;
	}
	fprintf(err, "%s\n%*s^\n", p < end ? "..." : "", (int)(col - 1 - skip + (skip > 0 ? 5 : 2)),
		"");
}

static int by_place(const void *a, const void *b)
{
	const struct diag *x = *(const struct diag *const *)a, *y = *(const struct diag *const *)b;

	if (x->at.line != y->at.line)
		return x->at.line < y->at.line ? -1 : 1;
	if (x->at.col != y->at.col)
		return x->at.col < y->at.col ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* A value that an alias uses twice is wrong once. */
static bool same(const struct diag *a, const struct diag *b)
{
	return a->at.line == b->at.line && a->at.col == b->at.col && strcmp(a->text, b->text) == 0;
}

static void print_counts(const struct diags *d, FILE *err)
{
	if (d->stored == CONF_DIAGS_MAX)
		fprintf(err, "%s: only the first %d messages are shown\n", d->name, CONF_DIAGS_MAX);
	if (d->errors > 0)
		fprintf(err, "%u error%s", d->errors, d->errors == 1 ? "" : "s");
	if (d->warnings > 0)
		fprintf(err, "%s%u warning%s", d->errors > 0 ? ", " : "", d->warnings,
			d->warnings == 1 ? "" : "s");
	if (d->errors + d->warnings > 0)
		fputc('\n', err);
}

void diag_print(struct diags *d, FILE *err)
{
	const struct diag **all = arena_alloc(d->tmp, (d->stored + 1) * sizeof(struct diag *));
	struct cursor cur = {d->source.p, d->source.p + d->source.n, 1};
	size_t n = 0;

	for (const struct diag *x = d->first; x != NULL; x = x->next)
		all[n++] = x;
	qsort(all, n, sizeof(all[0]), by_place);
	for (size_t i = 0; i < n; i++) {
		const char *kind = all[i]->warning ? "warning" : "error";

		if (i > 0 && same(all[i], all[i - 1])) {
			if (all[i]->warning)
				d->warnings--;
			else
				d->errors--;
			continue;
		}
		if (all[i]->at.line == 0) {
			fprintf(err, "%s: %s: %s\n", d->name, kind, all[i]->text);
			continue;
		}
		fprintf(err, "%s:%u:%u: %s: %s\n", d->name, all[i]->at.line, all[i]->at.col, kind,
			all[i]->text);
		cursor_to(&cur, all[i]->at.line);
		print_source(err, cursor_line(&cur), all[i]->at.col);
	}
	print_counts(d, err);
}

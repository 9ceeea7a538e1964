/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Rows on the header of a message: where it ends, its fields, and changes in place. The block is of
 * the sort that arrives from a large mail service: 24 fields, some folded. A change needs a fresh
 * block each time; the row `copy` is what that costs and is part of the others.
 */
#include "bench/micro/micro.h"

#include "engine/smtp/header.h"

#define FIELDS 24
#define BLOCK_MAX 8192
#define THE_FIRST_GOES INT32_MIN

struct block {
	uint8_t text[BLOCK_MAX], work[BLOCK_MAX];
	size_t n, first; /* octets of all, of the first field */
	void (*change)(struct header_block *b);
};

static void block_init(struct block *b)
{
	char *p = (char *)b->text;
	int n = 0;

	for (int i = 0; i < FIELDS; i++) {
		n += snprintf(p + n, (size_t)(BLOCK_MAX - n),
			i % 4 == 0
				? "Received: from mx%d.sender.example (mx%d.sender.example\r\n"
				  "\t[192.0.2.25]) by in.receiver.example with ESMTPS id 4711;\r\n"
				  "\tThu, 01 Jan 2026 00:00:00 +0000\r\n"
				: "X-Field-%d: value number %d, of the usual length of a value\r\n",
			i, i);
		b->first = i == 0 ? (size_t)n : b->first;
	}
	n += snprintf(p + n, (size_t)(BLOCK_MAX - n), "Subject: a subject\r\n\r\n");
	b->n = (size_t)n;
}

static uint64_t end_rounds(void *arg, uint64_t rounds)
{
	struct block *b = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct header_scan s = {0};
		bool done = false;

		sum += header_feed(&s, span_of(micro_hide(b->text), b->n), &done) + done;
	}
	return sum;
}

static uint64_t field_rounds(void *arg, uint64_t rounds)
{
	struct block *b = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct span rest = span_of(micro_hide(b->text), b->n);
		struct header_field f;

		while (header_next(&rest, &f))
			sum++;
	}
	return sum;
}

static void change_none(struct header_block *b)
{
	(void)b;
}

static void change_insert(struct header_block *b)
{
	micro_hide(
		header_insert(b, 0, SPAN_LIT("X-Seen"), SPAN_LIT(" by the gateway")) ? b->p : NULL);
}

static void change_append(struct header_block *b)
{
	micro_hide(header_append(b, SPAN_LIT("X-Seen"), SPAN_LIT(" by the gateway")) ? b->p : NULL);
}

static void change_subject(struct header_block *b)
{
	micro_hide(header_change(b, 1, SPAN_LIT("Subject"), SPAN_LIT(" [spam] a subject")) ? b->p
											   : NULL);
}

static void change_delete(struct header_block *b)
{
	header_delete(b, 1, SPAN_LIT("Received"));
}

static uint64_t change_rounds(void *arg, uint64_t rounds)
{
	struct block *b = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct header_block h = {b->work, b->n, BLOCK_MAX};

		memcpy(b->work, micro_hide(b->text), b->n);
		b->change(&h);
		micro_hide(b->work);
		sum += h.n;
	}
	return sum;
}

static const struct {
	const char *name;
	void (*change)(struct header_block *b);
	int grows; /* octets */
} changes[] = {
	{"copy", change_none, 0},
	{"insert at the top", change_insert, 24},
	{"append", change_append, 24},
	{"change Subject", change_subject, 7},
	{"delete the first Received", change_delete, THE_FIRST_GOES},
};

void rows_header(struct micro *m)
{
	static struct block b;

	block_init(&b);
	if (micro_row(m, "header/end of %d fields", FIELDS + 1)) {
		micro_check(m, end_rounds(&b, 1) == b.n + 1, "the end is found at the end");
		micro_measure(m, (struct micro_size){"block", 1, b.n}, end_rounds, &b);
	}
	if (micro_row(m, "header/fields, %d", FIELDS + 1)) {
		micro_check(m, field_rounds(&b, 1) == FIELDS + 1, "all are found");
		micro_measure(m, (struct micro_size){"block", 1, b.n}, field_rounds, &b);
	}
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		if (!micro_row(m, "header/%s", changes[i].name))
			continue;
		b.change = changes[i].change;
		int grows = changes[i].grows == THE_FIRST_GOES ? -(int)b.first : changes[i].grows;
		micro_check(m, (int)change_rounds(&b, 1) == (int)b.n + grows,
			"the block has the length it should");
		micro_measure(m, (struct micro_size){"block", 1, b.n}, change_rounds, &b);
	}
}

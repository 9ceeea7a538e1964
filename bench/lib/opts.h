/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Long options of the bench tools: one table says how an option is read, bounded and explained, so
 * the help text cannot drift from the parser. getopt_long(3) underneath. A bad option ends the
 * program with one line on stderr and EX_USAGE (64). Before the ring exists; one thread.
 */
#ifndef BENCH_OPTS_H
#define BENCH_OPTS_H

#include "ring/base.h"

enum opt_kind {
	OPT_FLAG,    /* bool: true when given */
	OPT_UNFLAG,  /* bool: false when given (--no-...) */
	OPT_COUNT,   /* uint64_t, plain decimal */
	OPT_SIZE,    /* uint64_t, octets with k, m, g (powers of 1024) */
	OPT_SECONDS, /* uint64_t microseconds, written "1.5", "200ms", "2s", "3m" */
	OPT_MILLIS,  /* uint64_t milliseconds, plain decimal */
	OPT_REAL,    /* double */
	OPT_TEXT,    /* const char *, borrowed from argv */
	OPT_CALL,    /* call(ctx, row, argument): false = bad value */
	OPT_GROUP,   /* a heading in the help text */
};

struct opt {
	const char *name; /* without dashes; of a group: its heading */
	const char *arg;  /* "N", "FILE"; NULL for flags */
	enum opt_kind kind;
	size_t at;	  /* of the value, in the object that opts.ctx points at */
	double min, max;  /* bounds of numbers, both included; 0, 0 = none */
	const char *help; /* one sentence */
	bool (*call)(void *ctx, const struct opt *row, const char *arg);
	int tag; /* for call */
};

struct opts {
	const char *program, *usage, *about, *examples;
	const struct opt *rows;
	size_t count;
	void *ctx;
};

/* Rows of the table, by kind. */
#define OPT_HEADING(text)                                     \
	{                                                     \
		text, NULL, OPT_GROUP, 0, 0, 0, NULL, NULL, 0 \
	}
#define OPT_VALUE(name, arg, kind, type, field, help)                       \
	{                                                                   \
		name, arg, kind, offsetof(type, field), 0, 0, help, NULL, 0 \
	}
#define OPT_BOUNDED(name, arg, kind, type, field, min, max, help)               \
	{                                                                       \
		name, arg, kind, offsetof(type, field), min, max, help, NULL, 0 \
	}
#define OPT_FUNC(name, arg, call, help)                     \
	{                                                   \
		name, arg, OPT_CALL, 0, 0, 0, help, call, 0 \
	}

#define OPT_EXIT_USAGE 64

/* Reads argv; --help and --version print and exit 0; anything unknown, or a word that is no option,
 * exits 64. */
void opts_read(const struct opts *o, int argc, char **argv);

__attribute__((noreturn)) void opts_die(const struct opts *o, const char *format, ...)
	PRINTF_LIKE(2, 3);

/* The value parsers, also for tests. False: not a number, or out of range of the type. */
bool opt_count(const char *text, uint64_t *out);
bool opt_size(const char *text, uint64_t *out);
bool opt_seconds(const char *text, uint64_t *out_us);

#endif

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What became of the messages of a run: outcomes, counted by kind, with the text of the first reply
 * of each kind; and the report, as text or JSON. Fixed size: kinds beyond TALLY_KINDS_MAX are
 * counted as "other".
 */
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include "bench/lib/histogram.h"

#define TALLY_KINDS_MAX 32
#define TALLY_TEXT_BYTES 96

enum outcome { OUT_ACCEPTED, OUT_REJECTED, OUT_FAILED, OUT_UNSENT, OUTCOME_COUNT };
extern const char *const outcome_words[OUTCOME_COUNT];

struct tally_kind {
	enum outcome outcome;
	const char *stage; /* static: "rcpt", "dot" */
	const char *why;   /* static: "reset", "timeout"; NULL for a reply */
	uint16_t code;	   /* of the reply; 0 */
	uint64_t count;
	char text[TALLY_TEXT_BYTES]; /* of the first such reply, printable */
};

struct tally {
	uint64_t count[OUTCOME_COUNT];
	uint64_t bytes; /* content octets of accepted ones */
	struct tally_kind kind[TALLY_KINDS_MAX];
	unsigned kinds;
	uint64_t connected, connect_failed, rcpts_refused,
		lockstep;	   /* lockstep: PIPELINING was wanted, not offered */
	uint64_t idle_lost;	   /* connections that ended while nothing was asked of them */
	struct histogram latency;  /* microseconds, MAIL (or the scheduled time) to the final reply;
				      accepted ones */
	struct histogram greeting; /* microseconds, connect to greeting */
	uint64_t handshakes, resumed; /* of TLS; those of them that were resumed */
	struct histogram handshake;   /* microseconds */
};

void tally_init(struct tally *t);
void tally_add(struct tally *t, enum outcome o, const char *stage, const char *why, uint16_t code,
	struct span text);

/* Messages that were sent, whatever became of them. */
uint64_t tally_sent(const struct tally *t);

/* What is counted apart from the messages that the report is about. */
struct tally_part {
	const char *name, *key; /* "warm-up", "warm_up" */
	const struct tally *tally;
	bool latency; /* is shown */
};

struct tally_run {
	const char *to, *mode;
	uint64_t connections, message_bytes;
	double seconds, cpu_seconds;
	uint64_t backlog_max; /* of the open loop: most messages due and not begun */
	const char *tls_version, *tls_cipher; /* NULL: no TLS; "": no handshake was done */
	bool open_loop;
	bool mixed;		  /* message_bytes is an average */
	bool histogram;		  /* JSON: all of the latencies' */
	const struct tally *late; /* ended after the window: JSON has its failures as a number */
	const struct tally_part *parts; /* text: those with something in them */
	size_t part_count;
};

void tally_print(const struct tally *t, const struct tally_run *r, FILE *f);
void tally_json(const struct tally *t, const struct tally_run *r, FILE *f);

/* "950 us", "1.25 ms", "3.2 s" into out[16]; returns out. */
char *tally_time(uint64_t us, char *out);

#endif

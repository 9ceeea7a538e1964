/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the parts of the judge of hooks share (oracle_hooks.c says what it is). oracle_letter.c
 * knows messages as fields and a body; oracle_wishes.c which question was about what, and what a
 * message has become by the answers; oracle_hooks.c reads the sessions; oracle_taken.c compares
 * with what servers took and hooks were shown.
 */
#ifndef TESTS_SIM_ORACLE_HOOKS_INT_H
#define TESTS_SIM_ORACLE_HOOKS_INT_H

#include "tests/sim/oracle_int.h"
#include "tests/sim/wishes.h"

#define PLACES_MAX ARRAY_LEN(((struct oracle_listener *)0)->hooks)

/* A question to the hooks of a listener, one after the other. */
struct asked {
	enum hook_point point;
	uint64_t tid;
	struct wish *by[PLACES_MAX]; /* place by place; NULL: not asked */
	bool used;
};

/* What its hooks have said together. OPEN: not all of them were asked. */
enum outcome { OUT_PASS, OUT_NO, OUT_DISCARD, OUT_OPEN };

struct rcpt {
	struct octets line, mailbox; /* as the upstream is told it */
};

/* A transaction of a client. */
struct hmail {
	struct hsess *s;
	uint32_t number;
	uint64_t tid; /* 0: not known */
	struct octets from, from_params;
	struct rcpt *rcpts; /* those that the upstream took; owns */
	uint32_t rcpt_n;
	bool envelope_known;
	struct octets top; /* fields that go in front */
	struct octets raw; /* as the client sent it */
	bool bdat, begun, complete, chunk_refused;
	bool discard; /* before its end */
	bool told, told_2xx, in_doubt, told_discard;
	uint32_t final; /* servers.replies, or NONE */
	uint32_t commits;
};

struct hsess {
	struct sess *s;
	struct asked *asked; /* owns */
	uint32_t asked_n;
	uint64_t sid;
	struct hmail **mails; /* owns */
	uint32_t mail_n;
	struct hmail *cur;
	bool ended_here; /* the last message ended by a word that was not the upstream's to its end
			  */
	bool fuzzy;	 /* what belongs to which transaction is not known any more */
	uint32_t conn, serial;
};

struct hooks {
	struct oracle *o;
	struct wishes *w;
	struct hsess *sess;
	bool *told; /* by servers.replies: a client was shown it; owns */
};

static inline void put(struct octets *o, struct span s)
{
	if (s.n)
		octets_add(o, s.p, s.n);
}

static inline bool same_octets(const struct octets *a, const struct octets *b)
{
	return span_eq(octets_span(a), octets_span(b));
}

/* ---- messages (oracle_letter.c) ---- */

#define FIELDS_MAX 4000u

struct letter {
	/* With their line ends; the last one may have none. */
	struct octets field[FIELDS_MAX];
	uint32_t n;
	bool empty_line;
	struct octets body;
};

bool ends_crlf(struct span s);
struct span cut_crlf(struct span *s); /* the next line, with its CRLF if it has one */
void letter_unstuff(struct span in, struct octets *out);
void letter_read(struct letter *l, struct span in); /* letter_free() */
void letter_free(struct letter *l);
void letter_write(const struct letter *l, struct octets *out);
/* Fields stand before a body: an empty line must divide them. */
void letter_close(struct letter *l);
/* All that one hook wanted; false: nothing of the message. */
bool letter_edit(struct letter *l, const struct wish *w);

/* ---- questions, and what follows from them (oracle_wishes.c) ---- */

struct expected {
	struct octets from, to, body; /* of BDAT, or plain */
	bool stuffed_as_sent;	      /* body: as it came, dots and all */
	bool nobody;		      /* no recipient is left */
};

enum outcome asked_outcome(const struct oracle_listener *l, const struct asked *a);
void asked_gather(struct hooks *h, struct hsess *hs);
const struct wish *asked_first(const struct asked *a);
/* The next one about this command that was not met. tid 0: of any transaction; no line: any. */
struct asked *asked_find(struct hsess *hs, enum hook_point p, uint64_t tid, struct span line);
struct asked *asked_end(struct hmail *m); /* about the end of the data; NULL: never */
/* MAIL or RCPT as the upstream must be told it. */
void hooked_line(struct hooks *h, struct hsess *hs, const struct unit *u, const struct asked *a,
	struct octets *line, struct octets *box, struct octets *params);
/* A command has passed: what its hooks wanted of the message holds. */
void hooked_passed(struct hsess *hs, struct hmail *m, const struct asked *a);
void content_plain(const struct hmail *m, struct octets *out); /* without dots */
/* As it is when hook number `place` decides about it; place >= hook_count: when it is sent. False:
 * no octet was changed. */
bool content_at(const struct hmail *m, const struct asked *end, uint32_t place, struct octets *out);
void expected_make(struct hmail *m, struct expected *x); /* expected_free() */
void expected_free(struct expected *x);
bool content_same(const struct hmail *m, const struct expected *x, const struct srv_message *got);

/* ---- what was taken, shown and counted (oracle_taken.c) ---- */

struct span link_octets(const struct oracle *o, const struct srv_reply *sr); /* what it answers */
bool span_begins(struct span s, const char *word);
void judge_taken(struct hooks *h);
void judge_resets(struct hooks *h);
void judge_shown(struct hooks *h, const struct wish_shown *x);
void judge_counters(struct hooks *h);

#endif

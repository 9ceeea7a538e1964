/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The oracle: given the record of a world, what its servers wrote down, the log lines and counters
 * that an operator would see, it says whether ringpost did what docs/SMTP.md promises. It is
 * written from that document and never reads the engine's state; the only engine header it knows is
 * the table of counters.
 *
 * For each session it reads what the client sent and what it was told side by side: a command, its
 * one reply, the state that follows from both, the next command. A reply with a server's mark must
 * be that server's whole reply to that very command; any other must be one that ringpost may give
 * there, with a cause.
 */
#ifndef TESTS_SIM_ORACLE_H
#define TESTS_SIM_ORACLE_H

#include "tests/sim/client.h"
#include "tests/sim/server.h"

#include "engine/obs/stat.h"

/* X(id, word, what was broken) */
#define INVARIANTS(X)                                                                         \
	X(I1_ACK, "I1",                                                                       \
		"a client was told 2xx for a message that was not taken exactly once, whole") \
	X(I2_COMMIT, "I2", "a server took what no client had sent to its end")                \
	X(I3_ONCE, "I3", "a message was taken more than once")                                \
	X(I4_REPLIES, "I4",                                                                   \
		"a reply is missing, too many, not in order, not whole or not allowed")       \
	X(I5_MIXED, "I5", "octets of one session appeared in another")                        \
	X(I6_BOUND, "I6", "more was held than the bound")                                     \
	X(I7_OPS, "I7", "an operation or a buffer was used against the rules of the ring")    \
	X(I8_LIVE, "I8", "something did not end")                                             \
	X(I9_COUNTERS, "I9", "counters or records differ from what happened")                 \
	X(I10_DOUBT, "I10", "in-doubt records differ from the messages in doubt")             \
	X(I11_VERDICT, "I11", "something refused went through")                               \
	X(I12_TLS, "I12", "plain octets crossed STARTTLS")

enum invariant {
	I_NONE,
#define X(id, word, text) id,
	INVARIANTS(X)
#undef X
};

struct verdict {
	enum invariant broken; /* I_NONE: all hold; else the first found */
	char text[512];	       /* what, where: for people */
};

/* Of a hook as configured. */
struct oracle_hook {
	bool asked_at_end, sees, keeps;
};

/* Of one listener's sessions, as configured. */
struct oracle_listener {
	enum { NEWLINES_GUARD, NEWLINES_REJECT, NEWLINES_NORMALIZE, NEWLINES_PASS } newlines;
	uint64_t message_max; /* 0: none */
	uint32_t recipients_max, errors_max, command_line_max, pipeline;
	bool starttls_passed, trusted, chunking_stripped;
	enum sim_tls tls, link_tls; /* of the clients' leg; of the servers' */
	bool tls_required;	    /* no mail before STARTTLS */
	/* Clients of other networks than 10.1.0.0/16 are refused. */
	bool only_10_1;
	uint32_t junk_max; /* commands that bring no mail nearer; 0: the default, 100 */
	const char
		*hidden; /* EHLO keywords stripped beside the usual ones and CHUNKING; NULL: none */
	const char *bad_sender, *bad_recipient, *bad_ehlo; /* refused by a rule with rule_reply */
	const char *rule_reply;				   /* "550 5.7.1 no thanks" */
	uint32_t first_server, server_count;		   /* the servers of its upstream */
	uint64_t shortest_ms;				   /* the shortest of all its time limits */
	uint64_t final_ms; /* for the reply to a message that the server has whole */
	struct oracle_hook hooks[6];
	uint32_t hook_count;
	bool keeps; /* messages: one of its hooks does */
};

struct oracle_in {
	const struct record *rec; /* where TLS is in use: as if there were none (see.h) */
	const struct record *raw; /* as it was; NULL: there is no TLS */
	const struct servers *servers;
	const struct sim_clients *clients;
	const struct oracle_listener *listeners;
	uint32_t listener_count;
	struct span log; /* logfmt, all lines */
	const struct stat_table *stats;
	/* Things that happened to the whole core and excuse refusals. */
	bool drained, killed, pressure, admission_refused;
	struct verdicts *verdicts; /* what the seeded hook said; NULL: there is none */
	bool hooked; /* the sessions are of listeners whose hooks change messages: see wishes.h */
	uint32_t sessions_max;
	/* Octets of one direction of a session that may be held: what stops reading, and what still
	 * comes then. */
	uint32_t held_max;
};

void oracle_judge(const struct oracle_in *in, struct verdict *out);

/* The oracle's own test: records made by hand, good and broken ones. The number that it judged
 * wrongly; each of them is printed. */
int oracle_cases(void);
int oracle_hook_cases(void); /* the part of it for oracle_hooks.c */

#endif

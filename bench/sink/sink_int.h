/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Private to bench/sink. One struct sink for the process: it owns the rig, the doors (listeners),
 * the sessions, the counters and the texts of the replies. One thread: everything here is called on
 * it, and nothing blocks but writing to --store's files and to stdout.
 *
 * main.c start, turn, stop    options.c the command line    door.c listeners
 * session.c input and life of a session    commands.c a handler per verb    data.c bodies
 * rules.c delays, drops and replies that were ordered    secure.c TLS
 */
#ifndef BENCH_SINK_INT_H
#define BENCH_SINK_INT_H

#include "bench/lib/keep.h"
#include "bench/lib/rig.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"
#include "engine/smtp/scan.h"
#include "tls/tls.h"

#define PROGRAM "ringpost-sink"
#define LISTENERS_MAX 64
#define REPLY_TEXT_BYTES 1024

/* The moments that --delay-POINT, --reply POINT= and --drop POINT name. */
#define POINTS(X)                                                            \
	X(AT_GREETING, "greeting", "the greeting")                           \
	X(AT_EHLO, "ehlo", "EHLO and HELO")                                  \
	X(AT_STARTTLS, "starttls", "STARTTLS")                               \
	X(AT_AUTH, "auth", "AUTH")                                           \
	X(AT_MAIL, "mail", "MAIL")                                           \
	X(AT_RCPT, "rcpt", "RCPT")                                           \
	X(AT_DATA, "data", "DATA (the 354)")                                 \
	X(AT_BODY, "body", "the first octets of a body (drop only)")         \
	X(AT_BDAT, "bdat", "each BDAT chunk but the last")                   \
	X(AT_DOT, "dot", "the end of a message: the final dot or BDAT LAST") \
	X(AT_RSET, "rset", "RSET")                                           \
	X(AT_NOOP, "noop", "NOOP")                                           \
	X(AT_VRFY, "vrfy", "VRFY")                                           \
	X(AT_QUIT, "quit", "QUIT")

enum point {
#define X(id, name, text) id,
	POINTS(X)
#undef X
		POINT_COUNT
};

extern const char *const point_names[POINT_COUNT];

/* What one point is told to do instead of the usual. */
struct point_rule {
	uint64_t delay_ms;
	bool drop;
	uint16_t code;	   /* of the reply; 0 = the usual one */
	const char *reply; /* finished wire text; owned by the process */
};

#define SINK_COUNTERS(X)  \
	X(sessions)       \
	X(open)           \
	X(commands)       \
	X(messages)       \
	X(recipients)     \
	X(bytes)          \
	X(refused)        \
	X(dropped)        \
	X(aborted)        \
	X(hash_ok)        \
	X(hash_bad)       \
	X(hash_none)      \
	X(store_failed)   \
	X(errors)         \
	X(early_input)    \
	X(timeouts)       \
	X(resets)         \
	X(tls_handshakes) \
	X(tls_resumed)    \
	X(tls_failed)     \
	X(tls_truncated)  \
	X(overloads)      \
	X(accept_failed)

struct counters {
#define X(name) uint64_t name;
	SINK_COUNTERS(X)
#undef X
};

struct sink;

struct door {
	struct sink *sink;
	struct ring_addr addr;
	struct ring_fd fd; /* owns */
	struct ring_op op;
	struct timer retry;
};

struct sink {
	struct rig rig;
	struct slab slab; /* of struct sess */
	struct list sessions;
	struct door door[LISTENERS_MAX];
	unsigned door_count;
	struct point_rule rule[POINT_COUNT];
	struct store store;
	struct counters n;
	uint64_t dice;
	struct tls_keys *keys; /* owns; NULL without TLS */
	struct tls_site *site; /* the same */
	char ehlo[REPLY_TEXT_BYTES], ehlo_secure[REPLY_TEXT_BYTES], helo[REPLY_TEXT_BYTES],
		greeting[REPLY_TEXT_BYTES];
	bool printed; /* something waits in stdout's buffer */
	/* options */
	const char *store_dir, *banner, *hostname, *port_file, *tls_cert, *tls_key;
	uint64_t size_max, rcpts_max, timeout_us, connections_max, cpu, seed, drop_after;
	double reply_share, drop_share;
	bool print, hash, offer_pipelining, offer_chunking, offer_auth, drop_reset, quiet, stats,
		reuseport, looks, starttls, tls;
};

enum phase {
	PH_GREETING, /* the greeting is delayed */
	PH_COMMAND,
	PH_TLS,	 /* STARTTLS was said, or the session begins so: until the handshake is done */
	PH_AUTH, /* a line of an AUTH exchange */
	PH_DATA,
	PH_CHUNK,
	PH_CHUNK_END, /* all octets of a chunk are here */
	PH_END,	      /* the whole message is here */
};

struct sess {
	struct stream st;
	struct sink *sink;
	struct list node;
	struct stash stash; /* an unfinished line, or input behind a delay */
	size_t seen;	    /* of the stash's unfinished line, searched */
	struct timer timer; /* the delay while paused, else the idle timeout */
	uint64_t number;
	uint64_t active_ms;
	uint64_t left;	/* octets of the chunk not here yet */
	uint64_t bytes; /* of the message so far */
	struct scan scan;
	struct keep *keep; /* owns; NULL unless a message is looked at */
	struct tls *tls;   /* from the handshake on; else NULL */
	uint32_t rcpts;
	uint8_t phase;
	uint8_t auth_lines; /* of the exchange still to come */
	bool paused, waited, over, eof, skip_line, choked;
	bool spared; /* --drop body: the dice were thrown for this message */
	bool greeted, helo, mail, chunked, last, binary, swallow, too_big, authed, secure;
};

/* ---- session.c ---- */

/* Takes the descriptor over; closes it where there is no room. */
void session_open(struct sink *k, struct ring_fd fd);

/* ---- rules.c ---- */

static inline void say(struct sess *s, struct span text)
{
	stream_put(&s->st, text);
}
void refuse(struct sess *s, struct span text); /* an error reply of the usual kind */
void finish(struct sess *s);		       /* the last reply was said */

#define SAY(s, text) say((s), SPAN_LIT(text "\r\n"))
#define REFUSE(s, text) refuse((s), SPAN_LIT(text "\r\n"))

enum point rule_find(const char *name, size_t n); /* POINT_COUNT: none */

enum decision {
	DECIDE_WAIT, /* a delay: ask again when resumed */
	DECIDE_GONE, /* dropped: the session is over */
	DECIDE_USUAL,
	DECIDE_REPLY, /* say what was ordered: rule_say() */
};
/* What --delay, --drop and --reply say about this moment. */
enum decision rule_decide(struct sess *s, enum point p);
/* Says the reply that was ordered. True: a positive one, the session goes on as usual. */
bool rule_say(struct sess *s, enum point p);

enum said {
	SAID_WAIT, /* nothing yet, or the session is over: the command is not used up */
	SAID_YES,
	SAID_NO, /* an error was ordered */
};
/* The reply of a point: `usual` where no rule speaks. */
enum said rule_answer(struct sess *s, enum point p, struct span usual);
/* --drop body: not before --drop-after octets. False: the session is over. */
bool rule_body_goes_on(struct sess *s);

/* ---- commands.c ---- */

/* One line, without its end. False: not used up. */
bool command(struct sess *s, struct span line);
/* A line of an AUTH exchange: its octets are of no interest. */
void command_auth_line(struct sess *s, struct span line);

/* ---- data.c ---- */

bool message_open(struct sess *s);   /* MAIL was taken. False: no memory */
void message_reset(struct sess *s);  /* there is no transaction any more */
void message_end(struct sess *s);    /* PH_END: the whole message is here */
void chunk_end(struct sess *s);	     /* PH_CHUNK_END: a chunk, not the last, is here */
void chunk_complete(struct sess *s); /* the last octet of a chunk came */
/* Body octets, at most in.n; how many were used. */
size_t data_eat(struct sess *s, struct span in);
size_t chunk_eat(struct sess *s, struct span in);

/* ---- secure.c: TLS; the first two also without ---- */

void secure_start(struct sink *k, uint32_t connections); /* leaves the program on what is wrong */
void secure_stop(struct sink *k);			 /* no session is left */
void secure_begin(struct sess *s);			 /* the handshake: now */
void secure_answer(struct sess *s); /* to STARTTLS, where that was said, once nothing is paused */
void secure_opened(struct sess *s); /* the handshake is done */
void secure_over(struct sess *s, enum ring_res why); /* counts how input of one with TLS ended */

/* ---- door.c ---- */

void door_open(struct sink *k, struct door *o);
/* --port-file. One line per listener: the port, or the path of a Unix socket. */
void doors_write_ports(const struct sink *k);
void doors_close(struct sink *k); /* no more connections */
bool doors_busy(const struct sink *k);
void doors_fini(struct sink *k); /* once they are not busy */

/* ---- options.c ---- */

void options_defaults(struct sink *k);
void options_read(struct sink *k, int argc, char **argv);
void options_texts(struct sink *k);

#endif

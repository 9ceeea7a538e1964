/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the simulated servers: server.c lives (accepts, reads, writes, sleeps, dies),
 * server_talk.c understands commands, server_body.c takes messages, server_say.c makes replies.
 */
#ifndef TESTS_SIM_SERVER_INT_H
#define TESTS_SIM_SERVER_INT_H

#include "tests/sim/actor.h"
#include "tests/sim/server.h"
#include "tests/sim/veil.h"

/* What a server feels like at a command, a chunk or the end of a message.
 * X(id, weight of 256, least manners) */
#define SRV_WHIMS(X)                                                                        \
	X(WHIM_NONE, 0, SRV_POLITE)                                                         \
	X(WHIM_MULTI, 20, SRV_POLITE)	/* a reply of several lines */                      \
	X(WHIM_REFUSE_4, 4, SRV_POLITE) /* 4xx, where a command may be refused */           \
	X(WHIM_REFUSE_5, 4, SRV_POLITE)                                                     \
	X(WHIM_SLOW, 8, SRV_RARE)	      /* sleeps before it does anything */          \
	X(WHIM_LONG, 4, SRV_RARE)	      /* a reply of many lines */                   \
	X(WHIM_BARE_LF, 8, SRV_RARE)	      /* lines of the reply end with LF alone */    \
	X(WHIM_ODD, 8, SRV_RARE)	      /* does the less usual of what it may do */   \
	X(WHIM_LEAVE, 2, SRV_RARE)	      /* 421 out of turn, then closes */            \
	X(WHIM_LEAVE_ANSWER, 2, SRV_RARE)     /* 421 as the answer, then closes */          \
	X(WHIM_CLOSE_AFTER, 3, SRV_RARE)      /* closes behind its reply */                 \
	X(WHIM_SHUT_AFTER, 2, SRV_RARE)	      /* says no more behind its reply, reads on */ \
	X(WHIM_MUTE, 2, SRV_HOSTILE)	      /* silence for ever */                        \
	X(WHIM_EXTRA, 5, SRV_HOSTILE)	      /* one more reply, that nobody asked for */   \
	X(WHIM_CLASS, 5, SRV_HOSTILE)	      /* a reply of a class that cannot be */       \
	X(WHIM_MALFORMED, 6, SRV_HOSTILE)     /* something that is not a reply */           \
	X(WHIM_EHLO_DIFFERS, 10, SRV_HOSTILE) /* another list of extensions than before */

enum srv_whim {
#define X(id, weight, manners) id,
	SRV_WHIMS(X)
#undef X
		SRV_WHIM_COUNT
};

/* Where one that dies does so. */
enum srv_death {
	DEATH_NONE,
	DEATH_ACCEPT,	    /* before the greeting */
	DEATH_COMMAND,	    /* before it answers a command */
	DEATH_BODY,	    /* in the middle of a message */
	DEATH_BEFORE_TAKEN, /* at the end of a message, before it took it */
	DEATH_AFTER_TAKEN,  /* ... after, before it said so */
	DEATH_IN_REPLY,
	DEATH_AFTER_REPLY,
	DEATH_POINTS,
};

enum srv_phase {
	PHASE_GREET,
	PHASE_COMMANDS,
	PHASE_AUTH,
	PHASE_DATA,
	PHASE_CHUNK,
	PHASE_CHUNK_END, /* all octets are there, nothing was said yet */
	PHASE_END,	 /* the same of a whole message */
	PHASE_OPAQUE,
	PHASE_DEAF, /* reads and throws away until the other end closes */
};

/* What happens in the middle of a DATA body, once. */
enum srv_mid { MID_NONE, MID_EARLY, MID_NAP, MID_LIE, MID_DEATH };

/* Looks for the end of data, octet by octet. Zero it, then line_end = EOD_CRLF. */
enum eod_line_end { EOD_OTHER, EOD_CR, EOD_LF, EOD_CRLF };
struct eod {
	uint8_t line_end; /* what stood before the dot, or stands before this octet */
	bool dot, cr;	  /* a dot was read behind it; a CR whose next octet decides */
};

/* Behind a srv_conn, with the same index. */
struct srv_actor {
	int far;	   /* -1: closed */
	struct veil *veil; /* NULL: in clear */
	bool clear_hello;  /* EHLO has come in clear: from there on it is not seen (see.h) */
	bool secures;	   /* 220 was said: TLS begins when it is out */
	bool injected;	   /* ... and more behind it */
	struct octets out; /* all it ever queued */
	size_t sent, at;   /* of out; of srv_conn.read, understood */
	size_t looked;	   /* read.n when it held no whole command: wait for more */
	uint64_t wake_us;  /* sleeps till then, deaf and mute; 0: awake; UINT64_MAX: for ever */
	uint32_t serial;
	uint8_t phase, death, death_how, mid;
	uint32_t death_after, mid_at;
	bool resumed; /* slept over this one: no whim a second time */
	bool closing; /* closes once all is sent */
	bool half;    /* ... its sending side only */
	bool dribbles;
	bool hello, authed, sour; /* sour: greeted with 554 */
	uint32_t challenges;	  /* AUTH: to come */
	/* The transaction. */
	bool mail, chunked, spoiled; /* spoiled: a chunk was refused */
	uint32_t rcpts;
	struct octets from, to, body;
	size_t cmd_off, body_off; /* of the DATA or BDAT command; where the body began */
	uint32_t cmd_n;
	struct eod eod;
	bool answered; /* an early reply was made */
	uint64_t chunk_left;
	bool chunk_last, chunk_swallow;
	uint32_t chat_left; /* opaque octets of its own accord */
};

struct srv_host {
	uint64_t up_us; /* 0: up */
};

struct servers_priv {
	struct sim_kernel *k;
	struct tape *t;
	struct servers_conf conf;
	struct srv_actor *actors;
	struct srv_host *hosts;
	uint32_t host_count;
	uint32_t *live, *ready; /* connections that are open; those that can do something now */
	uint32_t live_count;
	struct octets extensions; /* of the EHLO reply, one keyword line after the other, LF */
	bool enhanced, chunking, calm;
	uint64_t size_max;
};

/* One thing being dealt with. */
struct talk {
	struct servers *s;
	struct servers_priv *p;
	struct srv_conn *c;
	struct srv_actor *a;
	uint32_t conn;
	enum srv_whim whim;
	size_t off; /* the command's, as in srv_reply */
	uint32_t n;
	uint32_t message; /* as in srv_reply */
	struct span args; /* behind the verb */
};

/* ---- server.c ---- */
/* Deaf and mute for a while (UINT64_MAX: for ever); what it is about is dealt with after that. */
void srv_sleep(struct talk *t, uint64_t us);
/* Dies here if it was to die here; the connection is over then. */
bool srv_dies(struct talk *t, enum srv_death point);
void srv_shut(struct talk *t);
enum sim_tls srv_tls(const struct servers_priv *p, const struct srv_conn *c);
/* In clear, and TLS is to come: what is said here is forgotten then. */
bool srv_before_tls(const struct talk *t);

/* ---- server_say.c ---- */
void srv_say(struct talk *t, enum srv_why why, unsigned code, const char *text);
void srv_say_ehlo(struct talk *t);
void srv_lie(struct talk *t, unsigned code);
void srv_malform(struct talk *t);

/* ---- server_talk.c ---- */
void srv_talk(struct talk *t); /* deals with one thing of what was read, or finds it not whole */
void srv_roll(struct talk *t); /* chooses the whim */
/* The whim takes the place of what would be done: sleeping, leaving, lying. */
bool srv_strays(struct talk *t, enum srv_why why);
void srv_whim_after(struct talk *t); /* what the whim adds behind the reply */
void srv_reset(struct srv_actor *a);

/* ---- server_body.c ---- */
void srv_data_begin(struct talk *t); /* DATA was accepted */
void srv_data(struct talk *t);
void srv_chunk_begin(struct talk *t, uint64_t n, bool last);
void srv_chunk(struct talk *t);
void srv_chunk_end(struct talk *t);
void srv_message_end(struct talk *t);
/* Octets of `in` up to and with the end of data; *ended says whether it is there. */
size_t srv_eod(struct eod *e, uint32_t lax, struct span in, bool *ended);

#endif

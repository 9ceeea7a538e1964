/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The upstreams of a simulated world: seeded SMTP servers, legal, legal but rare, and hostile. They
 * write down what they did: the oracle needs it to know whose reply is whose.
 *
 * Every reply a server makes carries a mark, " k<conn>.<serial>", at the end of every line but
 * those that list EHLO keywords: so a reply that reaches a client names the command it answered.
 * The mark is unique in the world.
 */
#ifndef TESTS_SIM_SERVER_H
#define TESTS_SIM_SERVER_H

#include "tests/sim/kernel.h"

/* Why a reply was made. */
enum srv_why {
	SRV_GREETING,
	SRV_ANSWER,    /* of the command at cmd_off */
	SRV_CHALLENGE, /* 334 */
	SRV_FINAL,     /* to the end of a message (DATA's end, or BDAT LAST) */
	/* In the middle of a DATA body or of a chunk: what a server that gives up says. It swallows
	 * the rest, or closes, and says nothing at the end. */
	SRV_EARLY,
	SRV_LEAVING, /* 421 out of turn; cmd_n is 0. One in turn is an ANSWER, FINAL or GREETING */
	SRV_LIE,     /* a well-formed reply that nothing asked for, or of a class that cannot be */
	SRV_MALFORMED, /* not a reply */
};

struct srv_reply {
	uint32_t conn;	 /* index into servers.conns */
	uint32_t serial; /* from 0 in each connection */
	uint32_t code;
	enum srv_why why;
	uint32_t cmd_off, cmd_n; /* the command in the octets the server read: offset, length with
				    its line end; SRV_FINAL: of the DATA or BDAT command */
	struct octets text;	 /* as it was (or was to be) sent, whole */
	uint32_t out_end;	 /* octets the server had queued when the reply was complete */
	uint32_t message;	 /* SRV_FINAL: index into servers.messages, else UINT32_MAX */
};

/* A message whose end a server has seen. */
struct srv_message {
	uint32_t conn;
	bool committed; /* taken: 2xx decided (it may die before it says so) */
	bool bdat;
	struct octets from, to; /* the MAIL line's and the accepted RCPT lines' octets, whole lines
				   one after the other */
	struct octets body;	/* as received: DATA with its dots and its end, BDAT the chunks */
	uint32_t end_off;	/* octets the server had read at its end */
};

struct srv_conn {
	uint32_t server;    /* its number */
	uint32_t sock;	    /* of the engine, index into record.socks */
	struct octets read; /* all it read */
	/* Its replies prove nothing, from the first one on that is LIE or MALFORMED, or an EHLO
	 * list unlike that of the other connections. */
	bool lied;
	bool opaque;	     /* STARTTLS was answered 220 */
	uint32_t opaque_off; /* where what it read became opaque */
};

/* How much a server may misbehave. */
enum srv_manners { SRV_POLITE, SRV_RARE, SRV_HOSTILE };

struct servers_conf {
	enum srv_manners manners;
	/* Spellings of the end of data that it takes for one beside CRLF.CRLF: bits below. Only
	 * where the engine is to protect it. */
	uint32_t lax;
	bool dies;	     /* may close or reset at any point */
	bool starttls, auth; /* offered, and played */
	bool slow;	     /* sleeps often */
	bool fickle;	     /* takes what is odd, and closes behind replies, often */
	const uint8_t *tls;  /* of each server: enum sim_tls; borrowed; NULL: SIM_CLEAR */
};
#define SRV_LAX_LF_DOT_LF (1u << 0)
#define SRV_LAX_LF_DOT_CRLF (1u << 1)
#define SRV_LAX_CRLF_DOT_LF (1u << 2)
#define SRV_LAX_CR_DOT_CR (1u << 3)
#define SRV_LAX_CR_DOT_CRLF (1u << 4)
#define SRV_LAX_CRLF_DOT_CR (1u << 5)
#define SRV_LAX_NUL (1u << 6) /* NULs do not count */

struct servers {
	struct srv_conn *conns; /* owns, as the rest */
	uint32_t conn_count;
	struct srv_reply *replies;
	uint32_t reply_count;
	struct srv_message *messages;
	uint32_t message_count;
	struct servers_priv *priv;
};

/* `count` servers, number i at `at[i]`. */
void servers_init(struct servers *s, struct sim_kernel *k, struct tape *t,
	const struct servers_conf *conf, const struct ring_addr *at, uint32_t count);
void servers_free(struct servers *s);
bool servers_step(struct servers *s);		   /* one small thing; false: nothing to do now */
uint64_t servers_next_us(const struct servers *s); /* UINT64_MAX: waits for the engine only */
/* Polite from here on: answers everything at once, dies no more. */
void servers_calm(struct servers *s);

#endif

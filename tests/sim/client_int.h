/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the simulated clients: client.c lives (connects, reads, writes, stalls, dies),
 * client_talk.c decides what to say next and what a reply means, client_mail.c puts a message
 * together, client_foul.c spoils it, client_body.c makes bodies.
 *
 * What a client is about to say lies in `out`, cut into pieces: each is released for sending when
 * its turn has come, and with it the reply that is expected for it is noted. When all pieces are
 * gone and answered, the next ones are made.
 */
#ifndef TESTS_SIM_CLIENT_INT_H
#define TESTS_SIM_CLIENT_INT_H

#include "tests/sim/actor.h"
#include "tests/sim/client.h"
#include "tests/sim/veil.h"

enum cli_expect {
	EXPECT_NOTHING,
	EXPECT_GREETING,
	EXPECT_HELLO,
	EXPECT_MAIL,
	EXPECT_RCPT,
	EXPECT_DATA,
	EXPECT_FINAL,
	EXPECT_CHUNK,
	EXPECT_AUTH,
	EXPECT_TLS,
	EXPECT_XCLIENT,
	EXPECT_QUIT,
	EXPECT_OTHER,
};

/* Of a piece. */
#define PIECE_SYNC 1u	/* waits until everything before it was answered */
#define PIECE_MUST 2u	/* said also when the replies so far make it pointless */
#define PIECE_SHUT 4u	/* the sending side is shut behind it */
#define PIECE_CHUNK 8u	/* BDAT */
#define PIECE_APART 16u /* in a write of its own */

struct cli_piece {
	uint32_t end; /* in cli.out */
	uint8_t expect, flags;
};

/* Where one that dies does so. */
enum cli_death {
	DEATH_NONE,
	DEATH_CONNECT, /* at once, perhaps before it is accepted */
	DEATH_OCTET,   /* after so many octets sent */
	DEATH_BODY,    /* in the middle of a body */
	DEATH_END,     /* right behind the end of a message */
	DEATH_REPLY,   /* after so many replies read */
	DEATH_POINTS,
};

enum cli_how { HOW_CLOSE, HOW_RESET, HOW_SHUT, HOW_VANISH, HOW_COUNT };

/* What the EHLO reply said. */
#define OFFERS_CHUNKING 1u
#define OFFERS_STARTTLS 2u
#define OFFERS_AUTH 4u
#define OFFERS_SIZE 8u
#define OFFERS_8BITMIME 16u
#define OFFERS_SMTPUTF8 32u
#define OFFERS_DSN 64u
#define OFFERS_BINARYMIME 128u

/* How the pieces of an envelope follow each other. */
enum cli_style { STYLE_LOCKSTEP, STYLE_PIPELINED, STYLE_MIXED };

struct cli {
	struct sim_clients *all;
	uint32_t no;
	int far;		     /* -1: not connected yet, or no more */
	const struct cli_door *door; /* borrowed */
	struct veil *veil;	     /* NULL: in clear */
	bool born, over;
	uint64_t start_us;
	uint64_t last_us;		     /* when something moved last */
	uint64_t deaf_till_us, mute_till_us; /* stalls; 0: none */

	struct octets out;
	uint32_t sent, released; /* octets of out */
	uint64_t sent_ever;
	struct cli_piece *pieces; /* owns */
	uint32_t piece_count, piece_at;
	uint32_t shut_at;      /* shut when so much of out was sent; UINT32_MAX: not */
	struct octets expects; /* enum cli_expect, oldest at expect_at */
	size_t expect_at;

	struct octets heard;
	size_t heard_at, line_at; /* where the oldest reply begins, and its first unread line */
	uint32_t replies;

	/* Of the session. */
	uint8_t style;
	bool blind;	/* may have said anything: does not trust its idea of what is expected */
	bool impatient; /* the next piece goes though replies are missing */
	uint32_t tired; /* how often in a row */
	bool waits;	/* for the other end to close first */
	bool shut, leaving, quit_said;
	bool opaque;
	uint32_t opaque_left;
	bool hello, helo_only, name_was_bad;
	uint32_t hellos_refused;
	uint32_t offers; /* OFFERS_* */
	bool wants_tls, wants_auth;
	bool challenged;
	/* Of the message. */
	uint32_t message, messages; /* begun; to send */
	bool mail_ok, go, spoiled, need_rset, greedy;
	uint32_t rcpts_ok;

	uint8_t death, death_how;
	uint32_t death_after;
	uint64_t death_at; /* when sent_ever is so much; UINT64_MAX: not known yet */
};

struct sim_clients {
	struct sim_kernel *k;
	struct tape *t;
	struct clients_conf conf;
	const struct cli_door *doors;
	uint32_t door_count;
	struct cli *c; /* conf.count of them */
	uint32_t *ready;
	struct octets body; /* scratch */
	bool calm;
	uint32_t gave_up;
};

/* ---- client.c ---- */
void cli_over(struct cli *c, bool reset); /* closes */
void cli_veil(struct cli *c); /* TLS begins: what was said and heard so far was in clear */

/* ---- client_talk.c ---- */
/* Ends the piece that was written into `out` since the last one. */
void cli_piece(struct cli *c, enum cli_expect expect, unsigned flags);
void cli_advance(struct cli *c); /* releases what may be said now; makes more when all is said */
bool cli_may_tire(const struct cli *c); /* has something to say that waits for a reply */
void cli_listen(struct cli *c);		/* understands what was read */

/* ---- client_mail.c ---- */
void cli_mail(struct cli *c);

/* ---- client_foul.c ---- */
void cli_junk(struct cli *c);	      /* commands that bring no mail nearer, many */
void cli_foreign_verb(struct cli *c); /* one that ringpost may not pass */
void cli_bad_chunk(struct cli *c);    /* BDAT without a size that can be read */
void cli_endless_line(struct cli *c);
void cli_mutate(struct cli *c, uint32_t from); /* in what lies in `out` from there on */

/* ---- client_body.c ---- */
void cli_body(struct octets *out, struct cli *c, bool smuggles);
/* With dots stuffed (not where it smuggles) and the end of data. */
void cli_stuff(struct octets *out, struct span body, bool smuggles);

#endif

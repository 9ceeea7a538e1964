/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-blast inside. One thread, one ring.
 *
 *   main.c     start, the loop, the end
 *   options.c  the table of options
 *   load.c     who begins what when: closed loop, open loop, idle, slow; the measuring window
 *   client.c   one connection: dialling, deadlines, input, its end
 *   talk.c     its stages: commands out, a handler for each reply
 *   secure.c   TLS: the handshake, what is demanded of the server
 *   body.c     octets of messages
 *   drip.c     slow connections: the same octets, a few at a time
 *   report.c   progress, marks, the report
 *
 * Who owns what. struct blast is one and lives as long as the process; it owns everything else,
 * from start to end. A client is a slot, not a connection: cold (none), busy with one message, or
 * warm (open, nothing to do). Its node is in cold[role] or warm[role], or in no list while it is
 * busy; its stream is closed while it is cold. A message is taken before its connection is opened,
 * so a connection that fails costs the message, and every run ends: each wait for a reply has a
 * deadline, and after --give-up failed connections in a row nothing new is begun.
 *
 * Message octets are made at start, once for each size, and never change.
 */
#ifndef BENCH_BLAST_INT_H
#define BENCH_BLAST_INT_H

#include "bench/lib/content.h"
#include "bench/lib/opts.h"
#include "bench/lib/rig.h"
#include "bench/lib/sizes.h"
#include "bench/lib/sources.h"
#include "bench/lib/tally.h"
#include "bench/lib/window.h"
#include "engine/smtp/reply.h"
#include "tls/tls.h"

#include <inttypes.h>

#define PROGRAM "ringpost-blast"
#define CONNECTING_MAX 256 /* dials under way: more only overflow the listener's queue */
/* Staged at once, in cells of 4 KiB and pieces: up to STREAM_HIGH_BYTES in copies, or as many in
 * pieces of LASTING_BYTES with a command before each. */
#define CELLS_EACH 36
#define SEALED_CELLS_EACH 36 /* of the same octets, as records */
#define PIECE_BYTES (128u << 10)
#define LASTING_BYTES 4096 /* smaller pieces are copied, many into one */
#define COMMAND_BYTES 1536
#define ADDRESS_BYTES (COMMAND_BYTES - 512) /* of an expanded template, its NUL included */

/* What a connection waits for. */
#define STAGES(X)                    \
	X(ST_COLD, "cold")           \
	X(ST_CONNECT, "connect")     \
	X(ST_GREETING, "greeting")   \
	X(ST_HANDSHAKE, "handshake") \
	X(ST_EHLO, "ehlo")           \
	X(ST_STARTTLS, "starttls")   \
	X(ST_MAIL, "mail")           \
	X(ST_RCPT, "rcpt")           \
	X(ST_DATA, "data")           \
	X(ST_BODY, "body")           \
	X(ST_BDAT, "bdat")           \
	X(ST_DOT, "dot")             \
	X(ST_RSET, "rset")           \
	X(ST_QUIT, "quit")           \
	X(ST_CLOSE, "close")         \
	X(ST_WARM, "idle")

enum stage {
#define X(id, name) id,
	STAGES(X)
#undef X
		STAGE_COUNT
};

extern const char *const stage_names[STAGE_COUNT];

/* What a slot is for. */
enum role {
	ROLE_LOAD,
	ROLE_SLOW, /* the same, a few octets at a time */
	ROLE_IDLE, /* EHLO, then silence */
	ROLE_COUNT
};

/* What is counted apart. The first three are the phases of the window; slow and idle connections
 * are counted over the whole run. */
enum part {
	PART_WARM_UP = WINDOW_WARM_UP,
	PART_MEASURED = WINDOW_OPEN,
	PART_LATE = WINDOW_CLOSED,
	PART_SLOW,
	PART_IDLE,
	PART_COUNT
};

struct blast;
struct client;

/* What a slow connection has besides; owned by struct blast. */
struct drip {
	struct client *client;
	struct timer beat;
	size_t at, n; /* of the command that is on its way: octets that left; all */
	char command[2 * COMMAND_BYTES];
};

/* One slot. */
struct client {
	struct stream st;
	struct blast *blast;
	struct list node; /* in cold[role] or warm[role], or in none */
	struct stash stash;
	struct reply_scan scan;
	struct drip *drip;   /* of a slow one; else NULL */
	struct tls *tls;     /* from the handshake on, until the stream has closed; else NULL */
	struct maker *maker; /* of the message */
	struct timer timer;  /* of the stage; of the pause while cold */
	uint64_t due_ms;
	uint64_t number; /* of the connection */
	uint64_t dialed_us, start_us, shake_us;
	uint64_t message; /* number */
	size_t pos, end;  /* body octets handed to the stream; end of the chunk (of the body) */
	uint32_t on_conn; /* messages begun on this connection */
	uint32_t rcpt_at, rcpts_ok;
	uint32_t chunks;   /* BDAT replies to come */
	uint16_t bad_code; /* the reply that refused the message */
	uint8_t bad_stage, stage, role;
	bool busy; /* has a message */
	bool pipelining;
	bool open; /* the server holds a transaction */
	bool body; /* the body is on its way */
	bool quit_sent, lost;
	bool greeted; /* the greeting has come, and was one */
	bool secure;  /* the handshake is done */
	char bad_text[TALLY_TEXT_BYTES];
	char head[MAKER_HEAD_BYTES];
	size_t head_len;
};

struct blast_options {
	const char *to_text, *from, *rcpt, *parameters, *helo, *run, *log_file, *sizes_text;
	const char *tls_ca, *tls_name; /* the first NULL: the CAs of the system */
	struct ring_addr to;
	struct sources sources;
	struct sizes sizes; /* one, or a table */
	uint64_t connections, slow, slow_rate, idle, idle_also, messages, duration_us, warm_up_us,
		per_connection, size, chunk, recipients, seed, timeout_us, retry_us, give_up, cpu;
	double rate;
	bool pipelining, bdat, hash, json, quiet, marks, histogram;
	enum tls_version tls_version;
	bool starttls, tls, tls_version_given, tls_resume, tls_insecure;
};

struct blast {
	struct rig rig;
	struct blast_options opt;
	struct client *clients; /* owns; slow, load and idle ones, in this order */
	struct drip *drips;	/* owns; of the slow ones */
	uint64_t client_count;
	struct list cold[ROLE_COUNT], warm[ROLE_COUNT];
	uint64_t active[ROLE_COUNT];   /* not cold */
	struct maker maker[SIZES_MAX]; /* of each size; owns */
	struct tally tally[PART_COUNT];
	struct tls_policy *policy;	      /* owns; NULL without TLS */
	char tls_version[16], tls_cipher[48]; /* of the first handshake */
	struct window window;
	double cpu_opened, cpu_closed; /* seconds of this process's, when the window did that */
	uint64_t started, total;       /* messages taken; to take */
	uint64_t began_us, end_us;     /* of the load; end_us: nothing is begun after it */
	uint64_t connecting, fails_in_row, next_number;
	uint64_t slow_started;			      /* messages taken by slow ones */
	uint64_t idle_count, idle_begun, idle_opened; /* wanted; dialled; that were open */
	uint64_t backlog_max;
	uint64_t progress_us, progress_count;
	char *group; /* MAIL, RCPTs and DATA when they are the same for each message; owns */
	size_t group_len;
	FILE *log;
	bool loading; /* the idle ones are open: the load has begun */
	bool gave_up, tty;
};

static inline uint64_t now_us(const struct blast *b)
{
	return rig_now_us(&b->rig);
}

/* ---- options.c: argv; leaves the program on what is wrong ---- */

void options_read(struct blast_options *o, int argc, char **argv);
/* There is a warm-up or somebody reads the marks: what is counted is what ends in the window. */
static inline bool windowed(const struct blast_options *o)
{
	return o->marks || o->warm_up_us;
}

static inline bool secured(const struct blast_options *o)
{
	return o->starttls || o->tls;
}

/* ---- load.c ---- */

/* All that may be begun, and what the time brings; once a turn. */
void load_turn(struct blast *b);
/* A signal came: everything under way fails. */
void load_stop(struct blast *b);
/* When the next turn is due even if nothing happens. */
uint64_t load_wake_us(const struct blast *b);
/* Nothing is under way and nothing will be begun. */
bool load_over(const struct blast *b);
/* How many messages are due by the schedule and could not be begun. */
uint64_t load_backlog(const struct blast *b);
/* This slot begins its next message now. */
bool load_goes_on(const struct client *c);
/* Nothing will be begun any more. */
bool load_all_begun(const struct blast *b);
/* The next message is this slot's: number, size, time. */
void load_take(struct client *c);

/* ---- client.c ---- */

void client_init(struct client *c, struct blast *b, enum role role);
/* Opens a cold one, which is in no list. */
void client_dial(struct client *c);
/* The next stage, with its deadline. */
void client_enter(struct client *c, enum stage st);
/* Something moved: the deadline of the stage counts from now. */
void client_deadline(struct client *c);
/* Octets for the server, at the pace of the connection. */
void client_put(struct client *c, struct span data);
/* Open, with nothing to do. */
void client_rest(struct client *c);
/* It broke, or took too long. */
void client_fail(struct client *c, const char *why);
/* The connection is of no use any more. */
void client_drop(struct client *c);
/* It is not needed any more, nor is what it was doing. */
void client_cut(struct client *c);
/* What the outside would call the stage: the body is still on its way, or its answer is awaited. */
enum stage client_seen_stage(const struct client *c);
/* Where what happens to it is counted. */
struct tally *client_tally(const struct client *c);
/* What became of its message: counted and logged. */
void client_message_over(struct client *c, enum outcome o, enum stage st, const char *why,
	uint16_t code, const char *text);

/* ---- talk.c ---- */

void talk_reply(struct client *c, const struct smtp_reply *r);
/* Starts the message that was taken. */
void talk_message(struct client *c);
void talk_quit(struct client *c);
/* MAIL, RCPTs and DATA once and for all, if they are the same for each message. False: no memory.
 */
bool talk_make_group(struct blast *b) MUST_USE;
void put_format(struct client *c, const char *format, ...) PRINTF_LIKE(2, 3);
void talk_hello(struct client *c);

/* ---- secure.c: TLS; the first two also without ---- */

void secure_start(struct blast *b); /* leaves the program on what is wrong */
void secure_stop(struct blast *b);  /* no connection is left */
/* Connected, or STARTTLS was answered and nothing lies behind the answer. */
void secure_begin(struct client *c);
void secure_opened(struct client *c);
/* Why input is over, in a static word. */
const char *secure_why(const struct client *c, enum ring_res why);
void secure_end(struct client *c); /* the stream has closed */

/* ---- body.c ---- */

void body_start(struct client *c);
/* As much as the stream should hold; to be called again when it has drained. */
void body_pump(struct client *c);
/* The reply to a chunk came: the next one, where each waits for that. */
void body_next_chunk(struct client *c);

/* The next octets of the body, at most `max`; none while a chunk waits for its reply, or when all
 * were taken. */
struct span body_take(struct client *c, size_t max);

/* ---- drip.c: calls for clients that have one ---- */

void drip_init(struct drip *d, struct client *c);
void drip_begin(struct client *c);
void drip_end(struct client *c);
void drip_put(struct client *c, struct span data);

/* ---- report.c ---- */

void report_progress(struct blast *b);
void report_progress_end(const struct blast *b);
uint64_t report_wake_us(const struct blast *b);
void report_idle_open(const struct blast *b);
void report_opened(struct blast *b); /* the window did */
void report_closed(struct blast *b);
void report(struct blast *b);
bool report_all_well(const struct blast *b);

#endif

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Whole sessions without a kernel: the engine's own objects, from sess_accept() to the log record,
 * between two scripts on a ring that is an array (bytes_ring.h). What is left is the engine's own
 * time in user space for a message: reply slots, parsing, scanning, staging, timers, slabs, a rule
 * hook, counters, the record.
 *
 * CLIENTS sessions at a time in one core, so that a turn has several to serve, as under load. The
 * first run of a row is verified: each side must get what the other's script says, octet for octet,
 * and every script must come to its end.
 */
#include "bench/micro/micro.h"

#include "bench/lib/content.h"
#include "bench/micro/bytes_ring.h"
#include "engine/obs/log_buf.h"
#include "engine/session/session.h"

#define CLIENTS 16
#define IDLE_TURNS_MAX 100
#define LOG_BYTES (1u << 16)
#define STEPS_MAX 16
#define BDAT_BYTES 256

/* ---- the two scripts ---- */

#define GREETING "220 mx.receiver.example ESMTP\r\n"
#define EHLO "EHLO mail.sender.example\r\n"
#define EHLO_REPLY                                                                           \
	"250-mx.receiver.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n" \
	"250-CHUNKING\r\n250 ENHANCEDSTATUSCODES\r\n"
#define MAIL "MAIL FROM:<someone@sender.example> SIZE=1024\r\n"
#define MAIL_REPLY "250 2.1.0 Ok\r\n"
#define RCPT "RCPT TO:<somebody@receiver.example>\r\n"
#define RCPT_REPLY "250 2.1.5 Ok\r\n"
#define DATA "DATA\r\n"
#define DATA_REPLY "354 End data with <CR><LF>.<CR><LF>\r\n"
#define TAKEN "250 2.0.0 Ok: queued as 4WxYz12345\r\n"
#define QUIT "QUIT\r\n"
#define QUIT_REPLY "221 2.0.0 Bye\r\n"

struct talk {
	struct bytes_step client_steps[STEPS_MAX], server_steps[STEPS_MAX];
	struct bytes_script client, server;
};

/* The client says `line`, the server answers `reply` when it has all of it. */
static void exchange(struct talk *t, struct span line, struct span reply)
{
	ASSERT(t->client.count < STEPS_MAX);
	t->client_steps[t->client.count++] = (struct bytes_step){.say = line, .after = reply.n};
	t->server_steps[t->server.count++] = (struct bytes_step){.before = line.n, .say = reply};
}
#define EXCHANGE(t, line, reply) exchange(t, SPAN_LIT(line), SPAN_LIT(reply))

enum manner { LOCK_STEP, PIPELINED, CHUNKED };

static void talk_make(struct talk *t, enum manner manner, const struct maker *body, char *bdat)
{
	memset(t, 0, sizeof(*t));
	t->client.steps = t->client_steps;
	t->server.steps = t->server_steps;
	EXCHANGE(t, "", GREETING);
	EXCHANGE(t, EHLO, EHLO_REPLY);
	t->client.loop_from = t->client.count;
	if (manner == LOCK_STEP) {
		EXCHANGE(t, MAIL, MAIL_REPLY);
		EXCHANGE(t, RCPT, RCPT_REPLY);
		EXCHANGE(t, DATA, DATA_REPLY);
	} else if (manner == PIPELINED) {
		EXCHANGE(t, MAIL RCPT DATA, MAIL_REPLY RCPT_REPLY DATA_REPLY);
	} else {
		size_t n = (size_t)snprintf(
			bdat, BDAT_BYTES, MAIL RCPT "BDAT %zu LAST\r\n", body->raw_len);

		EXCHANGE(t, "", "");
		t->client_steps[t->client.count - 1].say = span_of(bdat, n);
		t->server_steps[t->server.count - 1].before = n;
		t->server_steps[t->server.count - 1].say = SPAN_LIT(MAIL_REPLY RCPT_REPLY);
	}
	exchange(t,
		manner == CHUNKED ? span_of(body->raw, body->raw_len)
				  : span_of(body->wire, body->wire_len),
		SPAN_LIT(TAKEN));
	if (manner == CHUNKED) /* it does not wait for the replies to the envelope */
		t->client_steps[t->client.count - 1].after += sizeof(MAIL_REPLY RCPT_REPLY) - 1;
	t->client.loop_to = t->client.count;
	t->server.loop_from = t->client.loop_from;
	t->server.loop_to = t->client.loop_to;
	EXCHANGE(t, QUIT, QUIT_REPLY);
	t->server_steps[t->server.count - 1].end = true;
}

/* ---- the engine ---- */

static const char conf_text[] =
	"listeners:\n"
	"  in: {bind: 127.0.0.1:2525, clients: any, upstream: mx, hooks: [rules],\n"
	"       limits: {message: 50m}}\n"
	"upstreams:\n"
	"  mx: {servers: 127.0.0.1:2526}\n"
	"hooks:\n"
	"  rules: {type: rules, reject-senders: ['@blocked.test'],\n"
	"          reject-recipients: ['@blocked.test']}\n";

struct engine {
	struct conf *conf;
	struct hook_set *hooks;
	struct ring *ring;
	struct log_buf *log;
	struct stat_table stats;
	struct sess_core core;
	struct talk talk;
	bool per_connection; /* a message each, and a new connection for the next one */
};

static int admit(
	void *arg, const struct conf_listener *lis, const struct ring_addr *client, uint64_t now_ms)
{
	return ADMIT_OK;
}

static void release(void *arg, const struct ring_addr *client)
{
}

static void engine_open(struct micro *m, struct engine *e)
{
	static const struct sess_admission admission = {admit, release, NULL};
	struct sess_core_conf cc = {.sessions_max = CLIENTS * 2, .memory_bytes = 16u << 20};
	struct ring_conf rc;
	struct ring_barrier why;

	memset(e, 0, sizeof(*e));
	ring_conf_defaults(&rc);
	e->conf = conf_load_text("micro", conf_text, sizeof(conf_text) - 1, stderr);
	micro_check(m, e->conf != NULL, "the configuration is read");
	cc.hooks = e->hooks = hook_set_open(e->conf, 1, stderr);
	e->ring = ring_open(&rc, &why);
	e->log = log_buf_new(LOG_BYTES, &e->conf->log);
	micro_check(m, e->hooks && e->ring && e->log, "there is memory");
	bool good = sess_core_init(&e->core, e->conf, &cc, e->ring, &e->stats, e->log, &admission);
	micro_check(m, good, "the core has its memory");
}

static void turn(struct engine *e)
{
	struct iovec iov[2] = {{0}};

	sess_core_turn(&e->core);
	log_buf_take(e->log, log_buf_peek(e->log, iov));
}

static void engine_close(struct micro *m, struct engine *e)
{
	while (!sess_core_idle(&e->core))
		turn(e);
	sess_core_fini(&e->core);
	log_buf_free(e->log);
	ring_close(e->ring);
	hook_set_close(e->hooks);
	conf_free(e->conf);
}

/* CLIENTS sessions of so many messages each, to their end. */
static void serve(struct engine *e, uint64_t messages)
{
	e->talk.client.rounds = e->talk.server.rounds = messages;
	for (int i = 0; i < CLIENTS; i++)
		sess_accept(&e->core, &e->conf->listeners[0], bytes_ring_client(e->ring));
	while (!sess_none_left(&e->core) && bytes_ring_idle(e->ring) < IDLE_TURNS_MAX)
		turn(e);
}

static uint64_t session_rounds(void *arg, uint64_t rounds)
{
	struct engine *e = arg;

	if (!e->per_connection)
		serve(e, rounds);
	for (uint64_t i = 0; e->per_connection && i < rounds; i++)
		serve(e, 1);
	return e->stats.messages_accepted;
}

/* ---- the rows ---- */

static const struct {
	const char *name;
	size_t bytes;
	enum manner manner;
	bool per_connection;
} rows[] = {
	{"new connection, 1k", 1024, LOCK_STEP, true},
	{"kept, 4k", 4096, LOCK_STEP, false},
	{"kept, 4k, pipelined", 4096, PIPELINED, false},
	{"kept, 75k", 75u << 10, LOCK_STEP, false},
	{"kept, 1m", 1u << 20, LOCK_STEP, false},
	{"kept, 1m, BDAT", 1u << 20, CHUNKED, false},
};

static void session_row(struct micro *m, size_t i)
{
	struct engine *e = micro_alloc(sizeof(*e));
	struct maker body;
	char bdat[BDAT_BYTES];

	micro_check(m, maker_init(&body, rows[i].bytes, false, ""), "there is memory");
	engine_open(m, e);
	e->per_connection = rows[i].per_connection;
	talk_make(&e->talk, rows[i].manner, &body, bdat);
	bytes_ring_scripts(e->ring, &e->talk.client, &e->talk.server, true);
	session_rounds(e, 3);
	micro_check(m, sess_none_left(&e->core), "all sessions come to their end");
	micro_check(m, bytes_ring_wrong(e->ring) == 0, "each side gets what the other says");
	micro_check(m, e->stats.messages_accepted == 3 * CLIENTS, "all messages are accepted");
	bytes_ring_scripts(e->ring, &e->talk.client, &e->talk.server, false);
	micro_measure(m, (struct micro_size){"message", CLIENTS, rows[i].bytes * CLIENTS},
		session_rounds, e);
	micro_check(m, sess_none_left(&e->core), "and do so when measured");
	engine_close(m, e);
	maker_fini(&body);
	free(e);
}

void rows_session(struct micro *m)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (micro_row(m, "session/%s", rows[i].name))
			session_row(m, i);
}

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The life of a session: accepted, admitted, upstream dialled, input taken and replies passed until
 * one side or a limit ends it. sess_end() is the only way out; the memory goes back when the
 * client's stream has closed and no link is borrowed any more.
 *
 * Failure modes: every row of ends.def. A client that vanishes after the final dot does not end the
 * link: the upstream's reply is waited for and recorded, since the client will send the message
 * again.
 */
#include "engine/session/session_int.h"

#include "ring/listen.h"

#define INQ_PAUSE_BYTES (16u << 10) /* waiting input that stops reading */
#define PRESSURE_COMMAND_MS 10000u
#define LINGER_MS 2000

static const struct stream_events client_events;
static const struct link_events link_events;
static void session_timer(struct timer *t);

const struct local_reply sess_replies[REPLY_COUNT] = {
#define X(id, code_, enhanced_, text_, word_) \
	[id] = {.code = code_, .enhanced = enhanced_, .text = text_, .word = word_},
#include "engine/session/replies.def"
#undef X
};

static const struct {
	const char *word;
	enum reply_id reply;
} ends[END_COUNT] = {
#define X(id, word_, reply_, text) [id] = {.word = word_, .reply = reply_},
#include "engine/session/ends.def"
#undef X
};

/* ---- the core's share ---- */

bool sess_core_init(struct sess_core *c, const struct conf *conf, const struct sess_core_conf *cc,
	struct ring *r, struct stat_table *stats, struct log_buf *log,
	const struct sess_admission *adm)
{
	uint32_t n = cc->sessions_max;
	uint32_t cells = (uint32_t)MIN_OF(cc->memory_bytes / INQ_CELL_BYTES, (uint64_t)UINT32_MAX);

	memset(c, 0, sizeof(*c));
	c->ring = r;
	c->stats = stats;
	c->log = log;
	c->admission = *adm;
	c->next_id = ring_random(r);
	list_init(&c->all);
	timers_init(&c->timers, ring_now_us(r) / 1000);
	c->scratch = malloc(SCRATCH_BYTES);
	/* Links that were let go of linger until their stream has closed: a few more than sessions.
	 */
	return c->scratch && streams_init(&c->streams, r, n * 8 + 1024, cells) &&
	       stash_pools_init(&c->stashes, 2 * n, 2 * n) &&
	       upstreams_init(&c->upstreams, conf, &c->streams, &c->timers, &c->stashes, stats, log,
		       2 * n + 64) &&
	       slab_init(&c->sessions, "sessions", sizeof(struct session), n) &&
	       slab_init(&c->txns, "transactions", sizeof(struct txn), 4 * n) &&
	       slab_init(&c->queues, "queues", QUEUE_SLOTS * sizeof(struct slot), n);
}

void sess_core_fini(struct sess_core *c)
{
	ASSERT(sess_none_left(c));
	slab_fini(&c->queues);
	slab_fini(&c->txns);
	slab_fini(&c->sessions);
	upstreams_fini(&c->upstreams);
	stash_pools_fini(&c->stashes);
	streams_fini(&c->streams);
	free(c->scratch);
}

/* ---- records ---- */

static void record_end(struct session *s)
{
	struct log_rec rec;
	char client[ADDR_TEXT_BYTES];

	if (!log_begin(&rec, s->core->log, LOG_EV_SESSION, ring_wall_us(s->core->ring)))
		return;
	log_id(&rec, "sid", s->id);
	log_cstr(&rec, "listener", s->lis->name);
	log_cstr(&rec, "upstream", s->lis->upstream->name);
	log_cstr(&rec, "server", s->server ? s->server->text : NULL);
	log_cstr(&rec, "client", addr_text(&s->client, client));
	log_str(&rec, "helo", sess_helo(s));
	log_u64(&rec, "messages", s->messages);
	log_u64(&rec, "commands", s->commands);
	log_u64(&rec, "errors", s->errors_total);
	log_u64(&rec, "bytes_in", s->cli.bytes_in);
	log_u64(&rec, "bytes_out", s->cli.bytes_out);
	if (s->auth_mech[0]) {
		log_cstr(&rec, "auth", s->auth_mech);
		log_u64(&rec, "auth_code", s->auth_code);
	}
	if (s->up.ev && s->up.left == MOVE_OPAQUE)
		log_bool(&rec, "tls_opaque", true);
	log_cstr(&rec, "reason", ends[s->end].word);
	log_ms(&rec, "ms", ring_now_us(s->core->ring) - s->began_us);
	log_end(&rec, s->core->stats);
}

static void record_refused(struct sess_core *c, const struct conf_listener *lis,
	const struct ring_addr *client, const char *reason)
{
	struct log_rec rec;
	char text[ADDR_TEXT_BYTES];

	STAT_INC(c->stats, sessions_refused);
	if (!log_begin(&rec, c->log, LOG_EV_REFUSED, ring_wall_us(c->ring)))
		return;
	log_cstr(&rec, "listener", lis->name);
	log_cstr(&rec, "client", addr_text(client, text));
	log_cstr(&rec, "reason", reason);
	log_end(&rec, c->stats);
}

/* ---- accepting ---- */

/* One line, without a session: the cheapest way to say no. A socket that cannot take a line at
 * once gets none. */
static void turn_away(struct sess_core *c, const struct conf_listener *lis,
	const struct ring_addr *client, struct ring_fd fd, const struct local_reply *r,
	const char *reason)
{
	uint8_t line[LOCAL_REPLY_BYTES_MAX];
	struct iovec v = {.iov_base = line, .iov_len = local_reply_write(r, NULL, line)};
	enum ring_res res;

	(void)ring_send_now(c->ring, fd, &v, 1, &res);
	ring_close_fd(c->ring, &fd);
	record_refused(c, lis, client, reason);
}

static bool client_may_connect(const struct conf_listener *lis, const struct ring_addr *client)
{
	/* A listener that only loopback can reach needs no list. */
	if (!lis->clients.any && lis->clients.count == 0)
		return addr_is_loopback(client);
	return conf_nets_match(&lis->clients, client);
}

/* Why this client is turned away; NULL: it is not. Counts the reason. */
static const struct local_reply *admission(struct sess_core *c, const struct conf_listener *lis,
	const struct ring_addr *client, const char **reason)
{
	struct hook_event ev = {.point = HOOK_CONNECT, .client = client};
	const struct local_reply *no = NULL;
	enum sess_end end = END_NONE;
	int verdict;

	if (c->draining) {
		STAT_INC(c->stats, refused_draining);
		end = END_DRAINING;
	} else if (!client_may_connect(lis, client)) {
		STAT_INC(c->stats, refused_clients);
		end = END_NOT_ALLOWED;
	} else if ((no = hook_ask(lis, &ev)) != NULL) {
		STAT_INC(c->stats, refused_rule);
		STAT_INC(c->stats, rule_rejects);
		end = END_RULE;
	} else if ((verdict = c->admission.admit(c->admission.arg, lis, client,
			    ring_now_us(c->ring) / 1000)) != ADMIT_OK) {
		bool full = verdict == ADMIT_FULL;

		if (full)
			STAT_INC(c->stats, refused_full);
		else
			STAT_INC(c->stats, refused_per_client);
		end = full ? END_FULL : END_PER_CLIENT;
	}
	if (end == END_NONE)
		return NULL;
	*reason = ends[end].word;
	return no ? no : &sess_replies[ends[end].reply];
}

static struct session *session_new(struct sess_core *c, const struct conf_listener *lis,
	const struct ring_addr *client, struct ring_fd fd)
{
	struct session *s = slab_get(&c->sessions);

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->core = c;
	s->lis = lis;
	s->client = *client;
	s->id = c->next_id++;
	s->began_us = ring_now_us(c->ring);
	s->client_open = true;
	s->trusted = conf_nets_match(&lis->trusted, client);
	list_init(&s->node);
	list_push_back(&c->all, &s->node);
	timer_init(&s->timer, session_timer);
	inq_init(&s->inq);
	stream_adopt(&s->cli, &c->streams, &client_events, fd);
	STAT_INC(c->stats, sessions);
	STAT_INC(c->stats, sessions_now);
	return s;
}

void sess_accept(struct sess_core *c, const struct conf_listener *lis, struct ring_fd fd)
{
	struct ring_addr client;
	const char *reason;
	const struct local_reply *no;
	struct session *s;

	if (ring_peer_addr(c->ring, fd, &client) != RING_OK) {
		/* Gone already; there is nobody to tell. */
		ring_close_fd(c->ring, &fd);
		return;
	}
	no = admission(c, lis, &client, &reason);
	if (no) {
		turn_away(c, lis, &client, fd, no, reason);
		return;
	}
	s = session_new(c, lis, &client, fd);
	if (!s) {
		c->admission.release(c->admission.arg, &client);
		STAT_INC(c->stats, refused_full);
		turn_away(c, lis, &client, fd, &sess_replies[REPLY_FULL], "full");
		return;
	}
	s->link = link_open(&c->upstreams, lis->upstream, &link_events, s, NULL);
	if (!s->link)
		sess_end(s, END_FULL);
	sess_step(s);
}

/* ---- saying ---- */

void sess_say(struct session *s, const struct local_reply *r, const char *detail)
{
	uint8_t line[LOCAL_REPLY_BYTES_MAX];

	if (!s->client_gone)
		stream_put(&s->cli, span_of(line, local_reply_write(r, detail, line)));
}

void sess_client_turn(struct session *s)
{
	s->client_since_ms = sess_now_ms(s);
}

/* ---- links ---- */

struct link *sess_need_link(struct session *s)
{
	struct link_hello hello = {0};

	if (s->link)
		return link_up(s->link) ? s->link : NULL;
	if (s->bound) {
		sess_end(s, END_LINK_LOST);
		return NULL;
	}
	if (s->hello_ok)
		hello = (struct link_hello){.line = span_of(s->hello, s->hello_n),
			.caps_hash = s->caps.hash,
			.ehlo = s->said_ehlo};
	STAT_INC(s->core->stats, relinks);
	s->link = link_open(&s->core->upstreams, s->lis->upstream, &link_events, s, &hello);
	if (!s->link)
		sess_end(s, END_MEMORY);
	return NULL;
}

/* A transaction that the lost upstream had not taken yet never was; one that it had cannot go on.
 */
static void lose_txn(struct session *s)
{
	struct txn *t = s->txn;

	if (!t)
		return;
	t->refused = &sess_replies[REPLY_LOST];
	if (t->mail_ok)
		return;
	s->txn = NULL;
	txn_unref(t);
}

/* What the upstream owes is answered by us, and what was being built there is over. The link itself
 * is the caller's to close. */
static void link_is_gone(struct session *s)
{
	bool opening = !link_up(s->link);

	if (s->phase == PHASE_OPAQUE) {
		move_stop(&s->up);
		move_stop(&s->down);
	}
	queue_fail(s);
	body_link_lost(s);
	s->link = NULL;
	lose_txn(s);
	if (s->phase == PHASE_GREETING)
		sess_end(s, END_NO_GREETING);
	else if (s->bound || opening)
		s->end_when_idle = s->end_when_idle ? s->end_when_idle : END_LINK_LOST;
}

void sess_drop_link(struct session *s)
{
	struct link *l = s->link;

	if (!l)
		return;
	link_is_gone(s);
	link_drop(l);
}

static void link_lost(void *who, enum link_end why)
{
	struct session *s = who;
	struct link *l = s->link;

	STAT_INC(s->core->stats, links_lost);
	if (why == LINK_UNREACHABLE) {
		char detail[ADDR_TEXT_BYTES + 64];

		STAT_INC(s->core->stats, upstream_unreachable);
		snprintf(detail, sizeof(detail), "%s %s: %s", l->up->name, l->server->text,
			ring_res_word((enum ring_res)l->why_connect));
		s->link = NULL;
		sess_say(s, &sess_replies[REPLY_UNREACHABLE], detail);
		sess_end(s, END_UNREACHABLE);
		sess_step(s);
		return;
	}
	if (why == LINK_DIFFERS) {
		STAT_INC(s->core->stats, relink_mismatches);
		s->end_when_idle = END_DIFFERS;
	}
	link_is_gone(s);
	sess_step(s);
}

static void link_ready(void *who)
{
	struct session *s = who;

	s->server = s->link->server;
	sess_step(s);
}

static bool link_reply(void *who, const struct smtp_reply *r)
{
	struct session *s = who;

	s->server = s->link->server;
	return sess_on_reply(s, r);
}

static void link_drained(void *who)
{
	struct session *s = who;

	if (move_running(&s->up))
		move_to_drained(&s->up);
	if (s->link && s->q_upstream == 0 && s->phase != PHASE_GREETING && link_up(s->link))
		link_await(s->link, 0);
	sess_step(s);
}

static void link_opaque(void *who, struct span data, int32_t buf)
{
	struct session *s = who;

	if (s->phase == PHASE_OPAQUE && move_running(&s->down))
		(void)move_bytes(&s->down, data, buf);
	sess_client_turn(s);
	sess_step(s);
}

static void link_opaque_end(void *who, enum ring_res why)
{
	struct session *s = who;

	if (move_running(&s->down))
		move_from_end(&s->down, why);
	sess_step(s);
}

static void link_quiet(void *who)
{
	struct session *s = who;

	if (move_running(&s->down))
		move_from_quiet(&s->down);
}

static void link_broken(void *who, enum ring_res why)
{
	struct session *s = who;

	if (move_running(&s->up))
		move_to_broken(&s->up, why);
	if (why == RING_NOMEM)
		STAT_INC(s->core->stats, limit_memory);
	if (s->phase == PHASE_OPAQUE)
		s->up_ended = s->down_ended = true;
	sess_step(s);
}

static const struct link_events link_events = {
	.on_broken = link_broken,
	.on_reply = link_reply,
	.on_ready = link_ready,
	.on_lost = link_lost,
	.on_drained = link_drained,
	.on_opaque = link_opaque,
	.on_opaque_end = link_opaque_end,
	.on_quiet = link_quiet,
};

/* ---- ending ---- */

/* One direction is over: its end goes on to the other side, behind all its octets. */
static void pass_end(struct stream *to, bool *told)
{
	if (*told)
		return;
	if (!stream_flushed(to)) {
		stream_tell_flushed(to);
		return;
	}
	*told = true;
	if (!to->broken)
		ring_shut(to->core->ring, to->fd);
}

static void release_input(struct session *s)
{
	inq_clear(&s->inq, &s->core->streams.cells);
	if (s->line.len)
		stash_wipe(&s->line, &s->core->stashes);
	s->line_waits = false;
}

static void release_txn(struct session *s)
{
	struct txn *t = s->txn;

	if (!t)
		return;
	if (t->code == 0)
		txn_end(t, "aborted", t->stage, ends[s->end].word);
	s->txn = NULL;
	txn_unref(t);
}

/* Nothing is due any more: the upstream side goes. */
static void finish_link(struct session *s)
{
	struct link *l = s->link;

	if (move_running(&s->up))
		move_stop(&s->up);
	if (move_running(&s->down))
		move_stop(&s->down);
	queue_fail(s);
	queue_clear(s);
	s->link = NULL;
	if (l)
		link_drop(l);
}

static void begin_end(struct session *s, enum sess_end why)
{
	s->end = (uint8_t)why;
	s->phase = PHASE_ENDING;
	release_txn(s);
	release_input(s);
	sess_client_turn(s);
}

void sess_end(struct session *s, enum sess_end why)
{
	if (s->end != END_NONE)
		return;
	/* No plain word into a stream that TLS has taken over. */
	if (ends[why].reply != REPLY_COUNT && s->phase != PHASE_OPAQUE)
		sess_say(s, &sess_replies[ends[why].reply], NULL);
	begin_end(s, why);
	finish_link(s);
	s->lingering = !s->client_eof && !s->client_gone && why != END_QUIT;
	if (!s->lingering)
		stream_finish(&s->cli);
}

/* Closing while the client is still sending would reset the connection and take our last words with
 * it (RFC 1122 4.2.2.13): say that no more comes, and listen on for a moment. */
static void linger(struct session *s)
{
	if (!s->lingering)
		return;
	if (s->client_eof || s->client_gone) {
		s->lingering = false;
		stream_finish(&s->cli);
		return;
	}
	pass_end(&s->cli, &s->down_told);
	stream_read(&s->cli, true);
}

/* The client will not hear us. A message whose end the upstream has got is seen through to its
 * reply. */
void sess_client_gone(struct session *s, enum sess_end why)
{
	s->client_gone = true;
	if (s->end == END_NONE) {
		begin_end(s, why);
		if (!queue_has_committed(s))
			finish_link(s);
	}
	stream_close(&s->cli);
}

static void session_free(struct session *s)
{
	struct sess_core *c = s->core;

	struct hook_event ev = {.point = HOOK_CLOSE, .client = &s->client, .helo = sess_helo(s)};

	(void)hook_ask(s->lis, &ev);
	ASSERT(s->q_count == 0 && !s->txn && !move_running(&s->up) && !move_running(&s->down));
	record_end(s);
	timer_stop(&c->timers, &s->timer);
	list_remove(&s->node);
	c->admission.release(c->admission.arg, &s->client);
	STAT_DEC(c->stats, sessions_now);
	slab_put(&c->sessions, s);
}

static bool over(const struct session *s)
{
	return !s->client_open && !s->link && !move_running(&s->up) && !move_running(&s->down);
}

/* ---- taking input ---- */

/* True while the next command must wait. */
static bool stalled(const struct session *s)
{
	const struct link *l = s->link;

	if (queue_sync(s) || queue_full(s) || s->end_when_idle != END_NONE)
		return true;
	if (s->penalty_until_ms > sess_now_ms(s) || stream_backlog(&s->cli) > STREAM_HIGH_BYTES)
		return true;
	if (!l)
		return false;
	/* Behind a server without PIPELINING, one at a time (RFC 2920 3.1). */
	return stream_backlog(&l->st) > STREAM_HIGH_BYTES ||
	       (s->q_upstream > 0 && !caps_has(&s->caps, EXT_PIPELINING));
}

/* One command, or one piece of a body; octets used. */
static size_t take(struct session *s, struct span in, int32_t buf)
{
	switch ((enum sess_phase)s->phase) {
	case PHASE_COMMAND:
		return stalled(s) ? 0 : sess_take_commands(s, in);
	case PHASE_BODY:
		return body_take(s, in, buf);
	case PHASE_CHUNK:
		return chunk_take(s, in, buf);
	case PHASE_AUTH:
		return sess_take_auth_line(s, in);
	case PHASE_OPAQUE:
		sess_client_turn(s);
		return move_running(&s->up) ? move_bytes(&s->up, in, buf) : in.n;
	case PHASE_GREETING:
		return 0;
	case PHASE_ENDING:
		return in.n;
	}
	ASSERT(false);
}

static size_t take_all(struct session *s, struct span in, int32_t buf)
{
	size_t at = 0;

	while (at < in.n) {
		size_t n = take(s, span_drop(in, at), buf);

		queue_emit_local(s);
		if (n == 0)
			break;
		at += n;
	}
	return at;
}

static void take_waiting(struct session *s)
{
	queue_emit_local(s);
	if (s->line_waits && s->phase == PHASE_COMMAND && !stalled(s)) {
		(void)sess_take_commands(s, SPAN_LIT(""));
		queue_emit_local(s);
	}
	while (s->inq.bytes > 0) {
		size_t used = take_all(s, inq_front(&s->inq), -1);

		/* Ending the session empties the queue of waiting input itself. */
		if (used == 0 || s->inq.bytes == 0)
			break;
		inq_drop(&s->inq, &s->core->streams.cells, used);
	}
}

/* ---- settling: what follows from the state ---- */

static bool input_over(const struct session *s)
{
	return s->client_eof && s->inq.bytes == 0 && !s->line_waits;
}

/* The client has closed its side and all it sent was taken. */
static void settle_eof(struct session *s)
{
	/* An AUTH exchange waits for a line that cannot come. */
	bool midway = s->phase == PHASE_BODY || s->phase == PHASE_CHUNK || s->phase == PHASE_AUTH;

	if (!input_over(s) || s->phase == PHASE_OPAQUE)
		return;
	if (midway)
		sess_client_gone(s, END_CLIENT_EOF);
	else if (!queue_owes(s))
		sess_end(s, END_CLIENT_EOF);
}

static void settle_idle(struct session *s)
{
	if (s->core->draining && s->end_when_idle == END_NONE && !s->txn &&
		(s->phase == PHASE_COMMAND || s->phase == PHASE_GREETING))
		s->end_when_idle = END_DRAINING;
	/* Beyond the error limit only a message that may have been taken is still worth an answer.
	 */
	bool idle = s->end_when_idle == END_ERRORS ? !queue_has_final(s) : !queue_owes(s);

	if (s->end_when_idle != END_NONE && idle &&
		(s->phase == PHASE_COMMAND || s->phase == PHASE_GREETING)) {
		/* A draining session whose client has begun a transaction meanwhile goes on. */
		if (s->end_when_idle == END_DRAINING && s->txn)
			s->end_when_idle = END_NONE;
		else
			sess_end(s, (enum sess_end)s->end_when_idle);
	}
}

static void settle_opaque(struct session *s)
{
	if (s->phase != PHASE_OPAQUE)
		return;
	if (s->up_ended)
		pass_end(&s->link->st, &s->up_told);
	if (s->down_ended)
		pass_end(&s->cli, &s->down_told);
	if (s->up_told && s->down_told)
		sess_end(s, END_OPAQUE);
}

/* The mover reads the descriptor itself, or is about to. */
static bool move_reads(const struct move *m)
{
	return move_running(m) && m->took;
}

/* Room on the other side, with hysteresis: `reading` is how it is now. */
static bool room(const struct stream *to, bool reading)
{
	return stream_backlog(to) <= (reading ? STREAM_HIGH_BYTES : STREAM_LOW_BYTES);
}

static void settle_reading(struct session *s)
{
	struct link *l = s->link;
	bool reading = s->cli.want_read;

	if (!move_reads(&s->up))
		stream_read(&s->cli, !s->client_eof && s->inq.bytes < INQ_PAUSE_BYTES &&
					     (!l || l->state < LINK_UP || room(&l->st, reading)));
	if (l && l->state >= LINK_GREETING && !move_reads(&s->down))
		stream_read(&l->st, !l->held && room(&s->cli, l->st.want_read));
}

/* The upstream does not take what is there for it. */
static bool upstream_blocked(const struct session *s)
{
	if (!s->link || !link_up(s->link))
		return false;
	return !stream_flushed(&s->link->st) || (move_running(&s->up) && move_holds(&s->up));
}

/* How long the phase may stand still: because of the client, or, in a body that the upstream does
 * not take, because of the upstream. 0: nothing is waited for. */
static uint32_t phase_patience_ms(const struct session *s)
{
	const struct conf_listener_timeouts *t = &s->lis->timeouts;

	switch ((enum sess_phase)s->phase) {
	case PHASE_COMMAND:
	case PHASE_AUTH:
		if (upstream_blocked(s))
			return s->lis->upstream->timeouts.send;
		if (s->q_count > 0 || (s->link && !link_up(s->link)))
			return 0;
		return s->core->pressure ? MIN_OF(t->command, PRESSURE_COMMAND_MS) : t->command;
	case PHASE_BODY:
	case PHASE_CHUNK:
		return upstream_blocked(s) ? s->lis->upstream->timeouts.send : t->data;
	case PHASE_OPAQUE:
		return t->command;
	case PHASE_ENDING:
		return s->lingering ? LINGER_MS : 0;
	case PHASE_GREETING:
		return 0;
	}
	ASSERT(false);
}

/* The same, and a client that does not read. What was just staged leaves at the end of the turn and
 * is no sign of that yet, so the longer of two clocks must not hide the shorter. */
static uint32_t client_patience_ms(const struct session *s)
{
	uint32_t phase = phase_patience_ms(s), send = s->lis->timeouts.send;

	if (stream_flushed(&s->cli))
		return phase;
	return phase ? MIN_OF(phase, send) : send;
}

static uint64_t client_deadline_ms(struct session *s)
{
	uint32_t patience = client_patience_ms(s);
	uint64_t at = patience ? s->client_since_ms + patience : UINT64_MAX, now = sess_now_ms(s);

	/* A mover works without events of ours: whether the upstream has stopped taking is looked
	 * at now and then. */
	if (s->phase == PHASE_CHUNK || upstream_blocked(s))
		at = MIN_OF(at, now + s->lis->upstream->timeouts.send);
	if (s->penalty_until_ms > now)
		at = MIN_OF(at, s->penalty_until_ms);
	return at;
}

/* Octets taken by either kernel: a side that reads slowly is not a side that does not read. */
static uint64_t progress(const struct session *s)
{
	return s->cli.bytes_out + (s->link ? s->link->st.bytes_out : 0);
}

/* The timer may fire early and be set again; it is moved only when it would fire late. */
static void settle_timer(struct session *s)
{
	if (progress(s) != s->seen_out) {
		s->seen_out = progress(s);
		if (!stream_flushed(&s->cli) || upstream_blocked(s))
			sess_client_turn(s);
	}
	uint64_t at = client_deadline_ms(s);

	if (at != UINT64_MAX && (!timer_armed(&s->timer) || s->timer.at_ms > at))
		timer_set(&s->core->timers, &s->timer, at);
}

/* Nobody is there any more and the last reply came: the link can go. */
static void settle_ended(struct session *s)
{
	queue_emit_local(s);
	if (!s->link)
		queue_clear(s);
	else if (!queue_has_committed(s))
		finish_link(s);
	linger(s);
	/* Freed from the timer: the caller may still be inside an event of the session. */
	if (over(s))
		timer_set(&s->core->timers, &s->timer, 0);
	else
		settle_timer(s);
}

void sess_step(struct session *s)
{
	if (s->link && s->link->held && s->phase != PHASE_CHUNK) {
		/* It answers the chunk that has just left, and comes back here. */
		link_resume(s->link);
		return;
	}
	if (s->end == END_NONE)
		take_waiting(s);
	if (s->end == END_NONE)
		settle_eof(s);
	if (s->end == END_NONE)
		settle_idle(s);
	if (s->end == END_NONE)
		settle_opaque(s);
	if (s->end != END_NONE) {
		settle_ended(s);
		return;
	}
	settle_reading(s);
	settle_timer(s);
}

static void stood_still(struct session *s)
{
	if (s->lingering) {
		sess_client_gone(s, (enum sess_end)s->end);
	} else if (!stream_flushed(&s->cli)) {
		sess_client_gone(s, END_CLIENT_SILENT);
	} else if (upstream_blocked(s)) {
		STAT_INC(s->core->stats, timeouts_upstream);
		STAT_INC(s->core->stats, links_lost);
		sess_drop_link(s);
		sess_client_turn(s);
	} else if (queue_has_committed(s)) {
		/* An earlier message may have been taken: its reply is worth waiting for. */
		sess_client_turn(s);
	} else {
		STAT_INC(s->core->stats, timeouts_client);
		sess_end(s, END_CLIENT_SILENT);
	}
}

static void session_timer(struct timer *t)
{
	struct session *s = CONTAINER_OF(t, struct session, timer);
	uint32_t patience;

	if (over(s)) {
		session_free(s);
		return;
	}
	patience = client_patience_ms(s);
	if (patience != 0 && s->client_since_ms + patience <= sess_now_ms(s) &&
		progress(s) == s->seen_out)
		stood_still(s);
	sess_step(s);
}

/* ---- the client's stream ---- */

static struct session *of_client(struct stream *st)
{
	return CONTAINER_OF(st, struct session, cli);
}

static void client_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct session *s = of_client(st);
	size_t used = 0;

	if (s->end != END_NONE)
		return;
	if (s->inq.bytes == 0 && !s->line_waits)
		used = take_all(s, data, buf);
	if (s->end == END_NONE && used < data.n &&
		!inq_add(&s->inq, &s->core->streams.cells, span_drop(data, used))) {
		STAT_INC(s->core->stats, limit_memory);
		sess_end(s, END_MEMORY);
	}
	sess_step(s);
}

static void client_end(struct stream *st, enum ring_res why)
{
	struct session *s = of_client(st);

	if (move_running(&s->up))
		move_from_end(&s->up, why);
	s->client_eof = true;
	if (s->phase != PHASE_OPAQUE && why != RING_EOF && s->end == END_NONE)
		sess_client_gone(s, END_CLIENT_RESET);
	sess_step(s);
}

static void client_quiet(struct stream *st)
{
	struct session *s = of_client(st);

	if (move_running(&s->up))
		move_from_quiet(&s->up);
}

static void client_drained(struct stream *st)
{
	struct session *s = of_client(st);

	if (move_running(&s->down))
		move_to_drained(&s->down);
	sess_step(s);
}

static void client_broken(struct stream *st, enum ring_res why)
{
	struct session *s = of_client(st);

	if (move_running(&s->down))
		move_to_broken(&s->down, why);
	if (why == RING_NOMEM)
		STAT_INC(s->core->stats, limit_memory);
	sess_client_gone(s, why == RING_NOMEM ? END_MEMORY : END_CLIENT_RESET);
	sess_step(s);
}

static void client_closed(struct stream *st)
{
	struct session *s = of_client(st);

	s->client_open = false;
	ASSERT(s->end != END_NONE);
	settle_ended(s);
}

static const struct stream_events client_events = {
	.on_bytes = client_bytes,
	.on_end = client_end,
	.on_quiet = client_quiet,
	.on_drained = client_drained,
	.on_broken = client_broken,
	.on_closed = client_closed,
};

/* ---- all of them ---- */

void sess_drain_all(struct sess_core *c)
{
	c->draining = true;
	LIST_FOR_SAFE(it, &c->all)
	sess_step(CONTAINER_OF(it, struct session, node));
}

void sess_kill_all(struct sess_core *c)
{
	LIST_FOR_SAFE(it, &c->all)
	{
		struct session *s = CONTAINER_OF(it, struct session, node);

		sess_end(s, END_KILLED);
		if (s->link)
			finish_link(s);
		stream_close(&s->cli);
		sess_step(s);
	}
}

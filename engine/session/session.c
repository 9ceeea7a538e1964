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

#define MIN_CELLS 256
#define MIN_STASHES 64
#define BUSY_COMPLETIONS 16 /* of one turn: there is probably more */
#define BUSY_TURNS_MAX 16

static const struct stream_events client_events;
static const struct link_events link_events;

const struct local_reply sess_replies[REPLY_COUNT] = {
#define X(id, code_, enhanced_, text_, word_) \
	[id] = {.code = code_, .enhanced = enhanced_, .text = text_, .word = word_},
#include "engine/session/replies.def"
#undef X
};

const struct sess_end_row sess_ends[END_COUNT] = {
#define X(id, word_, reply_, text) [id] = {.word = word_, .reply = reply_},
#include "engine/session/ends.def"
#undef X
};

static void answered(struct hook_seat *seat)
{
	sess_step(CONTAINER_OF(seat, struct session, seat));
}

/* ---- the core's share ---- */

static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high)
{
	return MAX_OF(low, MIN_OF(n, high));
}

/* Each side of each session, and what a session keeps of a link that is gone. */
static uint32_t tls_conns(const struct conf *conf, uint32_t sessions_max, uint32_t links_max)
{
	uint32_t n = 1;
	bool upstreams = false;

	for (uint32_t i = 0; i < conf->listener_count; i++)
		if (conf->listeners[i].starttls >= STARTTLS_OFFER) {
			n += sessions_max;
			break;
		}
	for (uint32_t i = 0; i < conf->upstream_count; i++)
		upstreams |= conf->upstreams[i].tls.mode != CONF_TLS_OFF;
	return upstreams ? n + links_max + sessions_max : n;
}

bool sess_core_init(struct sess_core *c, const struct conf *conf, const struct sess_core_conf *cc,
	struct ring *r, struct stat_table *stats, struct log_buf *log,
	const struct sess_admission *adm)
{
	/* Links that were let go of linger until their stream has closed: a few more than sessions.
	 */
	uint32_t n = cc->sessions_max, links = 2 * n + 64;
	/* Each takes a seg, too. */
	uint32_t cells =
		(uint32_t)clamp(cc->memory_bytes / 4 * 3 / INQ_CELL_BYTES, MIN_CELLS, UINT32_MAX);
	/* Unfinished lines and replies: a small cell for everybody, large ones out of the memory
	 * limit. */
	uint32_t large =
		(uint32_t)clamp(cc->memory_bytes / 4 / STASH_LARGE_BYTES, MIN_STASHES, 2ull * n);

	memset(c, 0, sizeof(*c));
	c->ring = r;
	c->stats = stats;
	c->log = log;
	c->admission = *adm;
	c->next_id = ring_random(r);
	list_init(&c->all);
	timers_init(&c->timers, ring_now_us(r) / 1000);
	c->scratch = malloc(SCRATCH_BYTES);
	const struct hook_worker_conf hooks = {
		.set = cc->hooks, .worker = cc->worker, .sessions_max = n, .wake = answered};
	bool good = c->scratch && streams_init(&c->streams, r, n * 8 + 1024 + cells, cells) &&
		    hook_core_init(&c->hooks, &hooks, &c->streams, &c->timers, stats, log) &&
		    stash_pools_init(&c->stashes, 2 * n, large) &&
		    upstreams_init(&c->upstreams, conf, &c->streams, &c->timers, &c->stashes, stats,
			    log, links) &&
		    slab_init(&c->sessions, "sessions", sizeof(struct session), n) &&
		    slab_init(&c->txns, "transactions", sizeof(struct txn), 4 * n) &&
		    slab_init(&c->queues, "queues", QUEUE_SLOTS * sizeof(struct slot), n) &&
		    slab_init(&c->moves, "moves", sizeof(struct sess_move), 2 * n) &&
		    hold_core_init(c, conf, cc);

	good = good && tls_core_init(&c->tls, &c->streams, tls_conns(conf, n, links));
	c->upstreams.tls = &c->tls;
	return good;
}

void sess_core_material(struct sess_core *c, const struct tls_material *m)
{
	c->sites = m->sites;
	c->upstreams.policies = m->policies;
}

bool sess_core_idle(struct sess_core *c)
{
	bool hooks = hook_core_idle(&c->hooks);

	return hooks && spools_idle(&c->spools);
}

void sess_core_fini(struct sess_core *c)
{
	ASSERT(sess_none_left(c));
	tls_core_fini(&c->tls);
	slab_fini(&c->helds);
	spools_fini(&c->spools);
	slab_fini(&c->moves);
	slab_fini(&c->queues);
	slab_fini(&c->txns);
	slab_fini(&c->sessions);
	upstreams_fini(&c->upstreams);
	hook_core_fini(&c->hooks);
	stash_pools_fini(&c->stashes);
	streams_fini(&c->streams);
	free(c->scratch);
}

/* Handshakes that were put off go on when nobody else has anything to say, or has said a lot: the
 * kernel hands over some 20 completions at a time (IO_LOCAL_TW_DEFAULT_MAX), and with 16 handshakes
 * behind each of these a command would wait for all that came before it. */
static bool starts_due(struct sess_core *c)
{
	uint64_t seen = ring_stats(c->ring)->cqes;
	bool busy = seen - c->seen_cqes >= BUSY_COMPLETIONS;

	c->seen_cqes = seen;
	if (busy && ++c->busy_turns < BUSY_TURNS_MAX)
		return false;
	c->busy_turns = 0;
	return true;
}

void sess_core_turn(struct sess_core *c)
{
	uint64_t next = tls_core_waits(&c->tls) ? 0 : timers_next_ms(&c->timers);

	ring_turn(c->ring, next == UINT64_MAX ? UINT64_MAX : next * 1000);
	if (starts_due(c) || !tls_core_waits(&c->tls))
		tls_core_turn(&c->tls);
	/* First what the completions produced leaves: a timer must not take octets that had no
	 * chance yet for octets that the peer does not read. */
	streams_flush(&c->streams);
	timers_run(&c->timers, ring_now_us(c->ring) / 1000);
	streams_flush(&c->streams);
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
	if (s->up_open)
		log_bool(&rec, "tls_opaque", true);
	secure_record(s, &rec);
	log_cstr(&rec, "reason", sess_ends[s->end].word);
	log_cstr(&rec, "cause", s->cause);
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
 * once gets none, nor one that waits for TLS. */
static void turn_away(struct sess_core *c, const struct conf_listener *lis,
	const struct ring_addr *client, struct ring_fd fd, const struct local_reply *r,
	const char *reason)
{
	uint8_t line[LOCAL_REPLY_BYTES_MAX];
	struct iovec v = {.iov_base = line, .iov_len = local_reply_write(r, NULL, line)};
	enum ring_res res;

	if (lis->starttls != STARTTLS_IMPLICIT)
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
	enum sess_end end = END_NONE;
	int verdict;

	if (c->draining) {
		STAT_INC(c->stats, refused_draining);
		end = END_DRAINING;
	} else if (!client_may_connect(lis, client)) {
		STAT_INC(c->stats, refused_clients);
		end = END_NOT_ALLOWED;
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
	*reason = sess_ends[end].word;
	return &sess_replies[sess_ends[end].reply];
}

static struct session *session_new(
	struct sess_core *c, const struct conf_listener *lis, const struct ring_addr *client)
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
	s->connecting = true;
	s->phase = secure_implicit(s) ? PHASE_TLS : PHASE_GREETING;
	s->trusted = conf_nets_match(&lis->trusted, client);
	list_init(&s->node);
	timer_init(&s->timer, sess_timer);
	inq_init(&s->inq);
	return s;
}

static void come_in(struct session *s, struct ring_fd fd)
{
	struct sess_core *c = s->core;

	s->client_open = true;
	list_push_back(&c->all, &s->node);
	stream_adopt(&s->cli, &c->streams, &client_events, fd);
	STAT_INC(c->stats, sessions);
	STAT_INC(c->stats, sessions_now);
}

static void leave_hooks(struct session *s)
{
	sess_tell(s, &(struct hook_event){.point = HOOK_CLOSE});
	hook_leave(&s->core->hooks, &s->seat);
}

void sess_open_first_link(struct session *s)
{
	s->link = link_open(&s->core->upstreams, s->lis->upstream, &link_events, s, NULL);
	if (!s->link)
		sess_end(s, END_FULL);
}

static void let_in(struct session *s)
{
	s->connecting = false;
	if (secure_implicit(s))
		secure_let_in(s);
	else
		sess_open_first_link(s);
}

/* The verdict on a client that waits to be let in. */
void sess_settle_connect(struct session *s)
{
	struct hook_word word;

	switch (sess_ask(s, &(struct hook_event){.point = HOOK_CONNECT}, &word)) {
	case HOOK_PASS:
		let_in(s);
		break;
	case HOOK_NO:
		STAT_INC(s->core->stats, refused_rule);
		sess_say(s, word.reply, NULL);
		sess_end(s, END_RULE);
		break;
	case HOOK_LATER:
		break;
	case HOOK_DISCARD:
	case HOOK_FEED:
		ASSERT(false); /* there is no message */
	}
}

void sess_accept(struct sess_core *c, const struct conf_listener *lis, struct ring_fd fd)
{
	struct ring_addr client;
	const char *reason;
	const struct local_reply *no;
	struct hook_word word;
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
	s = session_new(c, lis, &client);
	if (!s) {
		c->admission.release(c->admission.arg, &client);
		STAT_INC(c->stats, refused_full);
		turn_away(c, lis, &client, fd, &sess_replies[REPLY_FULL], "full");
		return;
	}
	sess_note_server(s, fd);
	/* Refused at once it never becomes a session. */
	if (sess_ask(s, &(struct hook_event){.point = HOOK_CONNECT}, &word) == HOOK_NO) {
		STAT_INC(c->stats, refused_rule);
		turn_away(c, lis, &client, fd, word.reply, sess_ends[END_RULE].word);
		leave_hooks(s);
		c->admission.release(c->admission.arg, &client);
		slab_put(&c->sessions, s);
		return;
	}
	come_in(s, fd);
	if (!hook_waits(&s->seat))
		let_in(s);
	sess_step(s);
}

/* ---- saying ---- */

void sess_say(struct session *s, const struct local_reply *r, const char *detail)
{
	uint8_t line[LOCAL_REPLY_BYTES_MAX];

	/* No plain word into a stream that TLS has taken over, or is about to. */
	if (!s->client_gone && s->phase != PHASE_OPAQUE && s->phase != PHASE_TLS)
		stream_put(&s->cli, span_of(line, local_reply_write(r, detail, line)));
}

/* ---- links ---- */

struct link *sess_need_link(struct session *s)
{
	struct link_hello hello = {0};

	if (s->link)
		return link_usable(s->link) ? s->link : NULL;
	if (s->bound) {
		sess_end(s, END_LINK_LOST);
		return NULL;
	}
	if (s->hello_ok)
		hello = (struct link_hello){.line = span_of(s->hello, s->hello_n),
			.caps_hash = s->caps.hash,
			.ehlo = s->hello_ehlo};
	STAT_INC(s->core->stats, relinks);
	s->link = link_open(&s->core->upstreams, s->lis->upstream, &link_events, s, &hello);
	if (!s->link)
		sess_end(s, END_MEMORY);
	return NULL;
}

void sess_reset_upstream(struct session *s)
{
	if (!link_up(s->link))
		return;
	stream_put(&s->link->st, SPAN_LIT("RSET\r\n"));
	queue_upstream(s, SLOT_DISCARD, false, NULL);
}

static void stop_moves(struct session *s)
{
	if (move_running(s->up))
		move_stop(s->up);
	if (move_running(s->down))
		move_stop(s->down);
}

/* A transaction that the lost upstream had not taken yet never was; one that it had cannot go on.
 */
static void lose_txn(struct session *s)
{
	struct txn *t = s->txn;

	/* A message that nobody is to get needs no upstream any more. */
	if (!t || (t->discard && t->body_begun))
		return;
	t->refused = &sess_replies[REPLY_LOST];
	hold_drop(t);
	if (!t->mail_ok && s->phase != PHASE_BODY)
		txn_leave(s, s->lost_word);
	else
		txn_abort(t, t->stage, s->lost_word);
}

/* What the upstream owes is answered by us, and what was being built there is over. The link itself
 * is the caller's to close. */
static void link_is_gone(struct session *s, enum link_end why)
{
	bool opening = !link_up(s->link);

	s->lost_word = link_end_word(why);
	secure_keep_facts(s);
	stash_clear(&s->hello_asked, &s->core->stashes);
	if (s->phase == PHASE_OPAQUE)
		stop_moves(s);
	queue_fail(s);
	body_link_lost(s);
	s->link = NULL;
	lose_txn(s);
	if (s->phase == PHASE_GREETING)
		sess_end(s, END_NO_GREETING);
	else if (s->bound || (opening && !s->hello_denied))
		s->end_when_idle = s->end_when_idle ? s->end_when_idle : END_LINK_LOST;
}

void sess_drop_link(struct session *s, enum link_end why)
{
	struct link *l = s->link;

	if (!l)
		return;
	STAT_INC(s->core->stats, links_dropped);
	link_is_gone(s, why);
	link_drop(l);
}

/* Told in SMTP, since the server speaks first: nobody else would learn which server and why. */
static void tell_unreachable(struct session *s)
{
	const struct link *l = s->link;
	char detail[ADDR_TEXT_BYTES + 64];

	STAT_INC(s->core->stats, upstream_unreachable);
	snprintf(detail, sizeof(detail), "%s %s: %s", l->up->name, l->server->text,
		link_why_connect(l));
	s->server = l->server;
	s->cause = link_why_connect(l);
	s->link = NULL;
	sess_say(s, &sess_replies[REPLY_UNREACHABLE], detail);
	sess_end(s, END_UNREACHABLE);
}

static void link_lost(void *who, enum link_end why)
{
	struct session *s = who;

	if (why == LINK_UNREACHABLE) {
		tell_unreachable(s);
		sess_step(s);
		return;
	}
	STAT_INC(s->core->stats, links_lost);
	if (why == LINK_NO_MEMORY)
		STAT_INC(s->core->stats, limit_memory);
	if (why == LINK_DIFFERS) {
		STAT_INC(s->core->stats, relink_mismatches);
		s->end_when_idle = END_DIFFERS;
	}
	secure_link_lost(s, why);
	link_is_gone(s, why);
	sess_step(s);
}

static void link_ready(void *who)
{
	struct session *s = who;

	s->server = s->link->server;
	secure_link_ready(s);
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

	if (move_running(s->up))
		move_to_drained(s->up);
	/* Replies are due from when their commands have left. */
	if (link_up(s->link))
		queue_await(s);
	sess_step(s);
}

static void link_opaque(void *who, struct span data, int32_t buf)
{
	struct session *s = who;

	if (s->phase == PHASE_OPAQUE && move_running(s->down))
		(void)move_bytes(s->down, data, buf);
	sess_client_turn(s);
	sess_step(s);
}

static void link_opaque_end(void *who, enum ring_res why)
{
	struct session *s = who;

	if (move_running(s->down))
		move_from_end(s->down, why);
	sess_step(s);
}

static void link_quiet(void *who)
{
	struct session *s = who;

	if (move_running(s->down))
		move_from_quiet(s->down);
}

static void link_broken(void *who, enum ring_res why)
{
	struct session *s = who;

	if (move_running(s->up))
		move_to_broken(s->up, why);
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

static void release_input(struct session *s)
{
	inq_clear(&s->inq, &s->core->streams.cells);
	stash_clear(&s->hello_asked, &s->core->stashes);
	if (s->line.len)
		stash_wipe(&s->line, &s->core->stashes);
	s->line_waits = false;
	hook_edits_free(s->edits);
	s->edits = NULL;
}

void sess_finish_link(struct session *s)
{
	struct link *l = s->link;

	stop_moves(s);
	if (!s->lost_word)
		s->lost_word = sess_ends[s->end].word;
	queue_fail(s);
	queue_clear(s);
	secure_keep_facts(s);
	s->link = NULL;
	if (l)
		link_drop(l);
}

static void begin_end(struct session *s, enum sess_end why)
{
	chunk_leave(s);
	hook_forget(&s->core->hooks, &s->seat);
	if (why == END_ERRORS)
		STAT_INC(s->core->stats, limit_errors);
	if (why == END_MEMORY)
		STAT_INC(s->core->stats, limit_memory);
	s->end = (uint8_t)why;
	s->phase = PHASE_ENDING;
	txn_leave(s, sess_ends[why].word);
	release_input(s);
	sess_client_turn(s);
}

/* The reply that it waited to end behind was its last word, and has been given. */
static bool last_word_said(const struct session *s)
{
	return !queue_owes(s) && s->end_when_idle != END_NONE &&
	       sess_ends[s->end_when_idle].reply == REPLY_COUNT;
}

void sess_end(struct session *s, enum sess_end why)
{
	if (s->end != END_NONE)
		return;
	if (sess_ends[why].reply != REPLY_COUNT && !last_word_said(s))
		sess_say(s, &sess_replies[sess_ends[why].reply], NULL);
	begin_end(s, why);
	sess_finish_link(s);
	s->lingering = !s->client_eof && !s->client_gone && why != END_QUIT;
	if (!s->lingering)
		stream_finish(&s->cli);
}

/* The client will not hear us. A message whose end the upstream has got is seen through to its
 * reply. */
void sess_client_gone(struct session *s, enum sess_end why)
{
	s->client_gone = true;
	if (s->end == END_NONE) {
		begin_end(s, why);
		stop_moves(s);
		if (!queue_has_committed(s))
			sess_finish_link(s);
	}
	stream_close(&s->cli);
}

static void put_move(struct sess_core *c, struct move *m)
{
	if (m != NULL)
		slab_put(&c->moves, CONTAINER_OF(m, struct sess_move, move));
}

void sess_free(struct session *s)
{
	struct sess_core *c = s->core;

	leave_hooks(s);
	stash_clear(&s->auth_asked, &c->stashes);
	stash_clear(&s->auth_name, &c->stashes);
	ASSERT(s->q_count == 0 && !s->txn && !move_running(s->up) && !move_running(s->down));
	record_end(s);
	timer_stop(&c->timers, &s->timer);
	list_remove(&s->node);
	c->admission.release(c->admission.arg, &s->client);
	STAT_DEC(c->stats, sessions_now);
	put_move(c, s->up);
	put_move(c, s->down);
	secure_free(s);
	slab_put(&c->sessions, s);
}

/* ---- the client's stream ---- */

static struct session *of_client(struct stream *st)
{
	return CONTAINER_OF(st, struct session, cli);
}

static void client_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct session *s = of_client(st);

	if (s->end != END_NONE)
		return;
	sess_input(s, data, buf);
	sess_step(s);
}

static void client_end(struct stream *st, enum ring_res why)
{
	struct session *s = of_client(st);
	enum sess_end lost = secure_client_lost(s, why);

	if (move_running(s->up))
		move_from_end(s->up, why);
	s->client_eof = true;
	if (s->end == END_NONE && s->phase != PHASE_OPAQUE &&
		(why != RING_EOF || s->phase == PHASE_TLS))
		sess_client_gone(s, lost);
	sess_step(s);
}

static void client_quiet(struct stream *st)
{
	struct session *s = of_client(st);

	if (move_running(s->up))
		move_from_quiet(s->up);
}

static void client_drained(struct stream *st)
{
	struct session *s = of_client(st);

	if (move_running(s->down))
		move_to_drained(s->down);
	sess_step(s);
}

static void client_broken(struct stream *st, enum ring_res why)
{
	struct session *s = of_client(st);

	if (move_running(s->down))
		move_to_broken(s->down, why);
	sess_client_gone(s, secure_client_lost(s, why));
	sess_step(s);
}

static void client_opened(struct stream *st)
{
	struct session *s = of_client(st);

	secure_opened(s);
	sess_step(s);
}

static void client_closed(struct stream *st)
{
	struct session *s = of_client(st);

	s->client_open = false;
	ASSERT(s->end != END_NONE);
	sess_step(s);
}

static const struct stream_events client_events = {
	.on_bytes = client_bytes,
	.on_end = client_end,
	.on_quiet = client_quiet,
	.on_drained = client_drained,
	.on_open = client_opened,
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
	c->draining = true; /* an accept may still complete */
	LIST_FOR_SAFE(it, &c->all)
	{
		struct session *s = CONTAINER_OF(it, struct session, node);

		sess_end(s, END_KILLED);
		if (s->link)
			sess_finish_link(s);
		stream_close(&s->cli);
		sess_step(s);
	}
}

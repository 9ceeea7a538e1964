/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See server.h. The life of simulated servers: each step is one thing that one connection can do
 * now (write, understand, read, close, wake), chosen by the tape. A server answers commands in
 * order; whether it reads all of them first or answers one by one is chance.
 *
 * Failure modes, on purpose: sleeping, dying at a chosen point, listening no more for a while.
 */
#include "tests/sim/server_int.h"

#define READ_AHEAD_BYTES (64u << 10)
#define OUT_BYTES_MAX (64u << 10)

/* What a connection can do now; the first is the dull choice. */
enum {
	CAN_WRITE = 1 << 0,
	CAN_TALK = 1 << 1,
	CAN_READ = 1 << 2,
	CAN_CLOSE = 1 << 3,
	CAN_WAKE = 1 << 4,
	CAN_BURY = 1 << 5,
	CAN_TAKE = 1 << 6,
	CAN_GIVE = 1 << 7,
};

/* ---- beginning and end ---- */

/* X(keyword line, rate of 256 that a world differs, whether it is there otherwise) */
#define EXTENSIONS(X)                                     \
	X("PIPELINING", 30, true)                         \
	X("8BITMIME", 30, true)                           \
	X("SMTPUTF8", 100, true)                          \
	X("DSN", 100, true)                               \
	X("ENHANCEDSTATUSCODES", 60, true)                \
	X("CHUNKING", 40, true)                           \
	X("BINARYMIME", 60, false)                        \
	X("VRFY", 30, false)                              \
	X("ETRN", 30, false)                              \
	X("HELP", 30, false)                              \
	X("XCLIENT NAME ADDR PORT PROTO HELO", 40, false) \
	X("XFORWARD NAME ADDR PROTO HELO", 30, false)     \
	X("LIMITS RCPTMAX=1000 MAILMAX=100", 20, false)   \
	X("REQUIRETLS", 20, false)                        \
	X("PRDR", 20, false)                              \
	X("BURL imap", 20, false)                         \
	X("DELIVERBY 240", 20, false)                     \
	X("X-UNHEARD-OF with some words", 40, false)

static const struct extension {
	const char *line;
	uint8_t rate;
	bool usual;
} extensions[] = {
#define X(line, rate, usual) {line, rate, usual},
	EXTENSIONS(X)
#undef X
};

static void choose_size(struct servers_priv *p)
{
	static const struct {
		const char *line;
		uint64_t max;
	} sizes[] = {{"SIZE 10240000\n", 10240000}, {"SIZE\n", 0}, {"SIZE 0\n", 0}, {"", 0},
		{"SIZE 30000\n", 30000}, {"SIZE 10240000\n", 10240000}};
	uint32_t i = tape_pick(p->t, ARRAY_LEN(sizes));

	octets_str(&p->extensions, sizes[i].line);
	p->size_max = sizes[i].max;
}

/* One list for all servers of the world. */
static void choose_extensions(struct servers_priv *p)
{
	for (size_t i = 0; i < ARRAY_LEN(extensions); i++) {
		const struct extension *e = &extensions[i];

		if (tape_chance(p->t, e->rate) == e->usual)
			continue;
		octets_fmt(&p->extensions, "%s\n", e->line);
		p->chunking |= strcmp(e->line, "CHUNKING") == 0;
		p->enhanced |= strcmp(e->line, "ENHANCEDSTATUSCODES") == 0;
	}
	choose_size(p);
	if (p->conf.starttls)
		octets_str(&p->extensions, "STARTTLS\n");
	if (p->conf.auth)
		octets_str(&p->extensions, tape_chance(p->t, 40)
						   ? "AUTH PLAIN LOGIN\nAUTH=PLAIN LOGIN\n"
						   : "AUTH PLAIN LOGIN\n");
	if (p->conf.manners == SRV_POLITE || !tape_chance(p->t, 40))
		return;
	for (size_t i = 0; i < p->extensions.n; i++)
		p->extensions.p[i] = ascii_lower(p->extensions.p[i]);
}

void servers_init(struct servers *s, struct sim_kernel *k, struct tape *t,
	const struct servers_conf *conf, const struct ring_addr *at, uint32_t count)
{
	struct servers_priv *p = calloc(1, sizeof(*p));

	ASSERT(p);
	*s = (struct servers){.priv = p};
	p->k = k;
	p->t = t;
	p->conf = *conf;
	p->host_count = count;
	p->hosts = calloc(count + 1, sizeof(*p->hosts));
	ASSERT(p->hosts);
	choose_extensions(p);
	for (uint32_t i = 0; i < count; i++)
		far_listen(k, &at[i], i);
}

static void forget_conn(struct srv_conn *c, struct srv_actor *a)
{
	octets_free(&c->read);
	octets_free(&a->out);
	octets_free(&a->from);
	octets_free(&a->to);
	octets_free(&a->body);
	veil_free(a->veil);
}

void servers_free(struct servers *s)
{
	struct servers_priv *p = s->priv;

	for (uint32_t i = 0; i < s->conn_count; i++)
		forget_conn(&s->conns[i], &p->actors[i]);
	for (uint32_t i = 0; i < s->reply_count; i++)
		octets_free(&s->replies[i].text);
	for (uint32_t i = 0; i < s->message_count; i++) {
		octets_free(&s->messages[i].from);
		octets_free(&s->messages[i].to);
		octets_free(&s->messages[i].body);
	}
	free(s->conns);
	free(s->replies);
	free(s->messages);
	free(p->actors);
	free(p->hosts);
	free(p->live);
	free(p->ready);
	octets_free(&p->extensions);
	free(p);
	*s = (struct servers){0};
}

/* ---- connections ---- */

static struct talk talk_of(struct servers *s, uint32_t conn)
{
	return (struct talk){
		.s = s,
		.p = s->priv,
		.c = &s->conns[conn],
		.a = &s->priv->actors[conn],
		.conn = conn,
		.off = s->conns[conn].read.n,
		.message = UINT32_MAX,
	};
}

/* ---- with or without TLS ---- */

enum sim_tls srv_tls(const struct servers_priv *p, const struct srv_conn *c)
{
	return p->conf.tls ? (enum sim_tls)p->conf.tls[c->server] : SIM_CLEAR;
}

bool srv_before_tls(const struct talk *t)
{
	return srv_tls(t->p, t->c) == SIM_STARTTLS && !t->a->veil;
}

static size_t room(const struct servers_priv *p, const struct srv_actor *a)
{
	return a->veil ? veil_room(a->veil) : far_room(p->k, a->far);
}

static size_t readable(const struct servers_priv *p, const struct srv_actor *a)
{
	return a->veil ? veil_readable(a->veil) : far_readable(p->k, a->far);
}

static bool heard_all(const struct servers_priv *p, const struct srv_actor *a)
{
	return a->veil ? veil_over(a->veil) : far_eof(p->k, a->far);
}

/* TLS ends in good order, mostly. */
static void say_bye(const struct servers_priv *p, struct srv_actor *a)
{
	if (!a->veil)
		return;
	if (p->calm || tape_pick(p->t, 4) != 3)
		veil_bye(a->veil);
	veil_give(a->veil, true);
}

static void put_on_veil(struct servers_priv *p, struct srv_actor *a, const struct veil_conf *clear)
{
	enum srv_manners m = p->calm ? SRV_POLITE : p->conf.manners;
	struct veil_conf conf = *clear;

	conf.server = true;
	conf.fouls = m == SRV_HOSTILE;
	conf.renews = m != SRV_POLITE;
	a->veil = veil_new(p->k, p->t, a->far, &conf);
}

/* All of it is in clear for now. */
static void expect_veil(struct servers_priv *p, struct srv_actor *a)
{
	struct rec_veil **r = far_veil(p->k, a->far);

	*r = calloc(1, sizeof(**r));
	ASSERT(*r);
	(*r)->server = true;
	(*r)->in_clear = (*r)->out_clear = (*r)->out_kept = UINT32_MAX;
}

/* The 220 is out: what was before counts no more, but for the greeting. */
static void secure(struct servers_priv *p, struct srv_actor *a, struct srv_conn *c)
{
	const struct rec_veil *r = *far_veil(p->k, a->far);
	uint32_t in_kept = r->in_kept, out_kept = MIN_OF(r->out_kept, (uint32_t)c->read.n);

	put_on_veil(p, a,
		&(struct veil_conf){.in_clear = (uint32_t)a->out.n,
			.in_kept = in_kept,
			.out_clear = (uint32_t)a->at,
			.out_kept = out_kept,
			.fouled = c->lied});
	(*far_veil(p->k, a->far))->injected = a->injected;
	a->secures = a->hello = false;
	a->out.n = a->sent = in_kept;
	c->read.n = a->at = a->looked = out_kept;
	srv_reset(a);
}

static void choose_fate(struct servers_priv *p, struct srv_actor *a)
{
	if (p->calm)
		return;
	a->dribbles = p->conf.manners != SRV_POLITE && tape_chance(p->t, 16);
	if (!p->conf.dies || !tape_chance(p->t, 100))
		return;
	a->death = (uint8_t)(1 + tape_pick(p->t, DEATH_POINTS - 1));
	a->death_how = (uint8_t)tape_pick(p->t, 3);
	switch ((enum srv_death)a->death) {
	case DEATH_COMMAND:
	case DEATH_IN_REPLY:
	case DEATH_AFTER_REPLY:
		a->death_after = tape_small(p->t, 12);
		break;
	case DEATH_ACCEPT:
		break;
	default:
		a->death_after = tape_chance(p->t, 60);
	}
}

static void accepted(struct servers *s, uint32_t host, int far)
{
	struct servers_priv *p = s->priv;
	uint32_t n = s->conn_count;

	s->conns = actor_grow(s->conns, n, sizeof(*s->conns));
	p->actors = actor_grow(p->actors, n, sizeof(*p->actors));
	p->live = actor_grow(p->live, n, sizeof(*p->live));
	p->ready = actor_grow(p->ready, n, sizeof(*p->ready));
	s->conns[n] = (struct srv_conn){.server = host, .sock = far_sock(p->k, far)};
	p->actors[n] = (struct srv_actor){.far = far, .phase = PHASE_GREET};
	p->live[p->live_count++] = n;
	s->conn_count++;
	choose_fate(p, &p->actors[n]);
	if (srv_tls(p, &s->conns[n]) == SIM_IMPLICIT)
		put_on_veil(p, &p->actors[n], &(struct veil_conf){0});
	else if (srv_tls(p, &s->conns[n]) == SIM_STARTTLS)
		expect_veil(p, &p->actors[n]);
}

static bool accept_one(struct servers *s)
{
	for (uint32_t i = 0; i < s->priv->host_count; i++) {
		int far = far_accept(s->priv->k, i);

		if (far >= 0) {
			accepted(s, i, far);
			return true;
		}
	}
	return false;
}

static void gone(struct talk *t)
{
	struct servers_priv *p = t->p;

	far_free(p->k, t->a->far);
	t->a->far = -1;
	veil_free(t->a->veil);
	t->a->veil = NULL;
	for (uint32_t i = 0; i < p->live_count; i++) {
		if (p->live[i] == t->conn) {
			memmove(&p->live[i], &p->live[i + 1],
				(--p->live_count - i) * sizeof(*p->live));
			break;
		}
	}
}

static void close_conn(struct talk *t)
{
	struct srv_actor *a = t->a;

	say_bye(t->p, a);
	if (a->half && !heard_all(t->p, a)) {
		far_shut(t->p->k, a->far);
		a->closing = a->half = false;
		a->phase = PHASE_DEAF;
		return;
	}
	far_close(t->p->k, a->far);
	gone(t);
}

/* ---- sleeping and dying ---- */

void srv_sleep(struct talk *t, uint64_t us)
{
	struct srv_actor *a = t->a;

	a->wake_us = us == UINT64_MAX ? us : sim_now_us(t->p->k) + us;
	a->resumed = true;
	if (a->phase == PHASE_COMMANDS || a->phase == PHASE_AUTH)
		a->at = t->off;
}

/* Behind what is queued. */
void srv_shut(struct talk *t)
{
	t->a->closing = t->a->half = true;
}

/* Whoever dies may be away for a while. */
static void take_host_down(struct servers_priv *p, uint32_t host)
{
	static const enum far_dial modes[] = {FAR_REFUSES, FAR_HANGS, FAR_NO_ROUTE};

	if (p->hosts[host].up_us || !tape_chance(p->t, 70))
		return;
	far_dial_mode(p->k, host, modes[tape_pick(p->t, ARRAY_LEN(modes))]);
	p->hosts[host].up_us = sim_now_us(p->k) + actor_nap_us(p->t);
}

static void die(struct talk *t)
{
	struct srv_actor *a = t->a;

	a->death = DEATH_NONE;
	if (a->death_how == 2) {
		a->sent = a->out.n;
		srv_shut(t);
		return;
	}
	take_host_down(t->p, t->c->server);
	if (a->death_how == 1)
		far_reset(t->p->k, a->far);
	else
		far_close(t->p->k, a->far);
	gone(t);
}

bool srv_dies(struct talk *t, enum srv_death point)
{
	struct srv_actor *a = t->a;

	if (a->death != point)
		return false;
	if (a->death_after > 0) {
		a->death_after--;
		return false;
	}
	die(t);
	return true;
}

/* ---- steps ---- */

static bool has_something_to_say(const struct srv_actor *a, const struct srv_conn *c)
{
	switch ((enum srv_phase)a->phase) {
	case PHASE_GREET:
	case PHASE_CHUNK_END:
	case PHASE_END:
		return true;
	case PHASE_OPAQUE:
		return a->at < c->read.n || a->chat_left > 0;
	default:
		return a->at < c->read.n && a->looked != c->read.n;
	}
}

static bool can_end(const struct servers_priv *p, const struct srv_actor *a, unsigned can)
{
	if (can & (CAN_WRITE | CAN_TALK | CAN_GIVE))
		return false;
	/* Replies that nobody takes any more do not hold it back. */
	if (heard_all(p, a))
		return true;
	return a->closing && a->sent == a->out.n && (!a->veil || veil_idle(a->veil));
}

static unsigned able(const struct servers *s, uint32_t conn)
{
	const struct servers_priv *p = s->priv;
	const struct srv_actor *a = &p->actors[conn];
	const struct srv_conn *c = &s->conns[conn];
	size_t waiting = a->out.n - a->sent;
	unsigned can = 0;

	if (far_dead(p->k, a->far))
		return CAN_BURY;
	if (a->wake_us)
		return a->wake_us <= sim_now_us(p->k) ? CAN_WAKE : 0;
	if (a->veil && veil_may_take(a->veil))
		can |= CAN_TAKE;
	if (a->veil && veil_may_give(a->veil))
		can |= CAN_GIVE;
	if (waiting && room(p, a))
		can |= CAN_WRITE;
	/* What comes behind STARTTLS is no command any more. */
	if (a->secures)
		return can_end(p, a, can) ? can | CAN_CLOSE : can;
	if (!a->closing && waiting < OUT_BYTES_MAX && has_something_to_say(a, c))
		can |= CAN_TALK;
	if (!a->closing && c->read.n - a->at < READ_AHEAD_BYTES && waiting < OUT_BYTES_MAX &&
		readable(p, a))
		can |= CAN_READ;
	if (can_end(p, a, can))
		can |= CAN_CLOSE;
	return can;
}

static size_t how_much(const struct servers_priv *p, const struct srv_actor *a, size_t n)
{
	if (p->calm)
		return n;
	return a->dribbles ? 1 : actor_cut(p->t, n);
}

static void write_some(struct talk *t)
{
	struct servers_priv *p = t->p;
	struct srv_actor *a = t->a;
	size_t n = MIN_OF(a->out.n - a->sent, room(p, a));
	bool last;

	n = how_much(p, a, n);
	last = a->death == DEATH_IN_REPLY && a->serial > a->death_after && n > 1;
	if (last)
		n = 1 + tape_pick(p->t, (uint32_t)n - 1);
	if (a->veil)
		n = veil_send(a->veil, a->out.p + a->sent, n);
	else
		n = far_send(p->k, a->far, a->out.p + a->sent, n);
	a->sent += n;
	if (last || (a->death == DEATH_AFTER_REPLY && a->serial > a->death_after &&
			    a->sent == a->out.n))
		die(t);
	else if (a->secures && a->sent == a->out.n)
		secure(p, a, t->c);
}

static void read_some(struct talk *t)
{
	const struct srv_actor *a = t->a;
	uint8_t piece[4096];
	size_t n = MIN_OF(readable(t->p, a), sizeof(piece));

	n = how_much(t->p, a, n);
	n = a->veil ? veil_recv(a->veil, piece, n) : far_recv(t->p->k, a->far, piece, n);
	octets_add(&t->c->read, piece, n);
}

static void act(struct servers *s, uint32_t conn, unsigned can)
{
	struct talk t = talk_of(s, conn);
	unsigned choices = 0, one = can;

	for (unsigned left = can; left; left &= left - 1)
		choices++;
	for (uint32_t skip = tape_pick(s->priv->t, choices); skip > 0; skip--)
		one &= one - 1;
	one &= -one;
	switch (one) {
	case CAN_WRITE:
		write_some(&t);
		break;
	case CAN_TALK:
		srv_talk(&t);
		break;
	case CAN_READ:
		read_some(&t);
		break;
	case CAN_CLOSE:
		close_conn(&t);
		break;
	case CAN_TAKE:
		veil_take(t.a->veil, s->priv->calm);
		break;
	case CAN_GIVE:
		veil_give(t.a->veil, s->priv->calm);
		break;
	case CAN_WAKE:
		t.a->wake_us = 0;
		break;
	default:
		far_close(s->priv->k, t.a->far);
		gone(&t);
	}
}

static bool raise_host(struct servers_priv *p)
{
	for (uint32_t i = 0; i < p->host_count; i++) {
		if (p->hosts[i].up_us && p->hosts[i].up_us <= sim_now_us(p->k)) {
			p->hosts[i].up_us = 0;
			far_dial_mode(p->k, i, FAR_ANSWERS);
			return true;
		}
	}
	return false;
}

bool servers_step(struct servers *s)
{
	struct servers_priv *p = s->priv;
	uint32_t n = 0;

	if (raise_host(p) || accept_one(s))
		return true;
	for (uint32_t i = 0; i < p->live_count; i++)
		if (able(s, p->live[i]))
			p->ready[n++] = p->live[i];
	if (n == 0)
		return false;
	n = p->ready[tape_pick(p->t, n)];
	act(s, n, able(s, n));
	return true;
}

uint64_t servers_next_us(const struct servers *s)
{
	const struct servers_priv *p = s->priv;
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < p->host_count; i++)
		if (p->hosts[i].up_us)
			next = MIN_OF(next, p->hosts[i].up_us);
	for (uint32_t i = 0; i < p->live_count; i++)
		if (p->actors[p->live[i]].wake_us)
			next = MIN_OF(next, p->actors[p->live[i]].wake_us);
	return next;
}

void servers_calm(struct servers *s)
{
	struct servers_priv *p = s->priv;

	p->calm = true;
	for (uint32_t i = 0; i < p->host_count; i++)
		if (p->hosts[i].up_us)
			p->hosts[i].up_us = 1;
	for (uint32_t i = 0; i < p->live_count; i++) {
		struct srv_actor *a = &p->actors[p->live[i]];

		a->death = DEATH_NONE;
		a->mid = MID_NONE;
		if (a->veil)
			veil_calm(a->veil);
		if (a->wake_us)
			a->wake_us = 1;
	}
}

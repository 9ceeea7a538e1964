/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See client.h. The life of simulated clients: each step is one thing that one of them can do now
 * (connect, write, read, wake, close, lose patience), chosen by the tape.
 *
 * Failure modes, on purpose: stalls in either direction, and ends of every kind at a chosen point.
 * One that has heard nothing for twenty minutes gives up; in quiet times that is counted.
 */
#include "tests/sim/client_int.h"

#include <netinet/in.h>

#define GIVES_UP_US (20ull * 60 * 1000000)
#define TIRES_US (4ull * 1000000) /* a blind one waits so long for a reply */
#define STALL_RATE 8
/* Longer than any time limit; whoever vanished comes back then to find out how it ended. */
#define VANISHES_US (3600ull * 1000000)

enum {
	CAN_CONNECT = 1 << 0,
	CAN_WRITE = 1 << 1,
	CAN_READ = 1 << 2,
	CAN_SHUT = 1 << 3,
	CAN_WAKE = 1 << 4,
	CAN_TIRE = 1 << 5,
	CAN_CLOSE = 1 << 6,
	CAN_TAKE = 1 << 7,
	CAN_GIVE = 1 << 8,
};

/* ---- beginning and end ---- */

static void choose_death(struct cli *c, struct tape *t)
{
	c->death = (uint8_t)(1 + tape_pick(t, DEATH_POINTS - 1));
	c->death_how = (uint8_t)tape_pick(t, HOW_COUNT);
	if (c->death == DEATH_OCTET)
		c->death_at = tape_small(t, 2000);
	else if (c->death == DEATH_REPLY)
		c->death_after = tape_small(t, 12);
	else
		c->death_after = tape_chance(t, 60);
}

static void choose_client(struct sim_clients *cs, struct cli *c, uint32_t no)
{
	const struct clients_conf *conf = &cs->conf;
	struct tape *t = cs->t;
	bool rare = conf->manners != CLI_POLITE;

	*c = (struct cli){
		.all = cs,
		.no = no,
		.far = -1,
		.shut_at = UINT32_MAX,
		.death_at = UINT64_MAX,
		.messages = 1 + tape_pick(t, MAX_OF(conf->messages, 1u)),
		.style = (uint8_t)tape_pick(t, 3),
	};
	c->waits = tape_chance(t, 128);
	c->helo_only = tape_chance(t, rare ? 20 : 6);
	c->wants_tls = conf->starttls && (tape_chance(t, 60) || conf->starttls_rushed);
	c->wants_auth = conf->auth && tape_chance(t, 140);
	if (tape_chance(t, 40))
		c->start_us = sim_now_us(cs->k) + actor_nap_us(t);
	if (conf->dies && tape_chance(t, 100))
		choose_death(c, t);
}

struct sim_clients *clients_new(struct sim_kernel *k, struct tape *t,
	const struct clients_conf *conf, const struct cli_door *doors, uint32_t door_count)
{
	struct sim_clients *cs = calloc(1, sizeof(*cs));

	ASSERT(cs && door_count > 0);
	cs->k = k;
	cs->t = t;
	cs->conf = *conf;
	cs->doors = doors;
	cs->door_count = door_count;
	cs->c = calloc(conf->count, sizeof(*cs->c));
	cs->ready = calloc(conf->count, sizeof(*cs->ready));
	ASSERT(cs->c && cs->ready);
	for (uint32_t i = 0; i < conf->count; i++)
		choose_client(cs, &cs->c[i], i);
	return cs;
}

void clients_free(struct sim_clients *cs)
{
	for (uint32_t i = 0; i < cs->conf.count; i++) {
		struct cli *c = &cs->c[i];

		octets_free(&c->out);
		octets_free(&c->expects);
		octets_free(&c->heard);
		free(c->pieces);
		veil_free(c->veil);
	}
	octets_free(&cs->body);
	free(cs->c);
	free(cs->ready);
	free(cs);
}

/* ---- with or without TLS ---- */

static size_t room(const struct cli *c)
{
	return c->veil ? veil_room(c->veil) : far_room(c->all->k, c->far);
}

static size_t readable(const struct cli *c)
{
	return c->veil ? veil_readable(c->veil) : far_readable(c->all->k, c->far);
}

/* Nothing more will come. */
static bool heard_all(const struct cli *c)
{
	return c->veil ? veil_over(c->veil) : far_eof(c->all->k, c->far);
}

/* TLS ends in good order where there is time for it. */
static void say_bye(struct cli *c)
{
	if (!c->veil)
		return;
	if (c->all->calm || tape_pick(c->all->t, 4) != 3)
		veil_bye(c->veil);
	veil_give(c->veil, true);
}

/* Octets of `out` up to the STARTTLS that was answered; what was said behind it is foul. */
static uint32_t behind_starttls(const struct cli *c)
{
	static const char word[] = "STARTTLS\r\n";
	const size_t n = sizeof(word) - 1;
	uint32_t at = c->sent;

	for (size_t i = 0; i + n <= c->sent; i++)
		if (memcmp(c->out.p + i, word, n) == 0)
			at = (uint32_t)(i + n);
	return at;
}

void cli_veil(struct cli *c)
{
	const struct sim_clients *cs = c->all;
	enum cli_manners m = cs->calm ? CLI_POLITE : cs->conf.manners;
	uint32_t said = (uint32_t)c->sent_ever;
	uint32_t kept = said > 0 ? said - c->sent + behind_starttls(c) : 0;

	c->veil = veil_new(cs->k, cs->t, c->far,
		&(struct veil_conf){.fouls = m == CLI_HOSTILE,
			.renews = m != CLI_POLITE,
			.fouled = kept != said,
			.in_clear = said,
			.in_kept = kept,
			.out_clear = (uint32_t)c->heard.n,
			.out_kept = (uint32_t)c->heard.n});
}

void cli_over(struct cli *c, bool reset)
{
	struct sim_kernel *k = c->all->k;

	if (reset)
		far_reset(k, c->far);
	else
		far_close(k, c->far);
	far_free(k, c->far);
	veil_free(c->veil);
	c->veil = NULL;
	c->far = -1;
	c->over = true;
}

static void shut(struct cli *c)
{
	say_bye(c);
	far_shut(c->all->k, c->far);
	c->shut = true;
	c->released = c->sent;
	c->piece_at = c->piece_count;
	c->shut_at = UINT32_MAX;
}

/* True: it is no more, or says no more. */
static bool die(struct cli *c)
{
	c->death = DEATH_NONE;
	c->death_at = UINT64_MAX;
	switch ((enum cli_how)c->death_how) {
	case HOW_SHUT:
		if (!c->shut)
			shut(c);
		break;
	case HOW_VANISH:
		c->deaf_till_us = c->mute_till_us = sim_now_us(c->all->k) + VANISHES_US;
		break;
	default:
		cli_over(c, c->death_how == HOW_RESET);
	}
	return true;
}

/* ---- steps ---- */

static void set_port(struct ring_addr *a, uint32_t port)
{
	if (a->sa.sa_family == AF_INET)
		((struct sockaddr_in *)&a->ss)->sin_port = htons((uint16_t)port);
	else if (a->sa.sa_family == AF_INET6)
		((struct sockaddr_in6 *)&a->ss)->sin6_port = htons((uint16_t)port);
}

static void connect_now(struct cli *c)
{
	struct sim_clients *cs = c->all;
	const struct cli_door *door = &cs->doors[tape_pick(cs->t, cs->door_count)];
	struct ring_addr from = door->from;

	c->door = door;

	set_port(&from, 1024 + c->no);
	c->born = true;
	c->far = far_connect(cs->k, &from, door->listener, c->no);
	if (c->far < 0) {
		c->over = true;
		return;
	}
	c->last_us = sim_now_us(cs->k);
	if (door->tls == SIM_STARTTLS)
		c->wants_tls = tape_chance(cs->t, 230);
	if (door->tls == SIM_IMPLICIT)
		cli_veil(c);
	cli_piece(c, EXPECT_GREETING, 0);
	/* Some talk before they are spoken to. */
	if (cs->conf.manners != CLI_POLITE && tape_chance(cs->t, 20)) {
		octets_fmt(&c->out, "EHLO c%u.example\r\n", c->no);
		cli_piece(c, EXPECT_HELLO, 0);
	}
	if (c->death == DEATH_CONNECT)
		die(c);
	cli_advance(c);
}

static size_t how_much(const struct cli *c, size_t n)
{
	return c->all->calm ? n : actor_cut(c->all->t, n);
}

static void maybe_stall(struct cli *c)
{
	struct sim_clients *cs = c->all;
	uint64_t till;

	if (cs->calm || !cs->conf.stalls || !tape_chance(cs->t, STALL_RATE))
		return;
	till = sim_now_us(cs->k) + actor_nap_us(cs->t);
	switch (tape_pick(cs->t, 3)) {
	case 0:
		c->mute_till_us = till;
		break;
	case 1:
		c->deaf_till_us = till;
		break;
	default:
		c->mute_till_us = c->deaf_till_us = till;
	}
}

static void write_some(struct cli *c)
{
	struct sim_kernel *k = c->all->k;
	size_t n = how_much(c, MIN_OF((size_t)(c->released - c->sent), room(c)));

	if (c->death_at != UINT64_MAX)
		n = MIN_OF(n, (size_t)(c->death_at - MIN_OF(c->death_at, c->sent_ever)));
	if (n > 0 && c->veil)
		n = veil_send(c->veil, c->out.p + c->sent, n);
	else if (n > 0)
		n = far_send(k, c->far, c->out.p + c->sent, n);
	c->sent += (uint32_t)n;
	c->sent_ever += n;
	c->tired = 0;
	c->last_us = sim_now_us(k);
	if (c->sent_ever >= c->death_at && die(c) && c->far < 0)
		return;
	maybe_stall(c);
	cli_advance(c);
}

static void read_some(struct cli *c)
{
	struct sim_kernel *k = c->all->k;
	uint8_t piece[4096];
	size_t n = how_much(c, MIN_OF(readable(c), sizeof(piece)));

	n = c->veil ? veil_recv(c->veil, piece, n) : far_recv(k, c->far, piece, n);
	octets_add(&c->heard, piece, n);
	c->tired = 0;
	c->last_us = sim_now_us(k);
	cli_listen(c);
	if (c->death == DEATH_REPLY && c->replies > c->death_after && die(c) && c->far < 0)
		return;
	maybe_stall(c);
	cli_advance(c);
}

/* Octets between TLS and the connection. */
static void carry(struct cli *c, unsigned which)
{
	if (which == CAN_TAKE)
		veil_take(c->veil, c->all->calm);
	else
		veil_give(c->veil, c->all->calm);
	c->last_us = sim_now_us(c->all->k);
	maybe_stall(c);
	cli_advance(c);
}

static void wake(struct cli *c)
{
	uint64_t now = sim_now_us(c->all->k);

	if (c->deaf_till_us <= now)
		c->deaf_till_us = 0;
	if (c->mute_till_us <= now)
		c->mute_till_us = 0;
	c->last_us = now;
}

/* How long it will wait for anything to move. */
static uint64_t patience_us(const struct cli *c)
{
	return cli_may_tire(c) ? TIRES_US : GIVES_UP_US;
}

static void tire(struct cli *c)
{
	if (cli_may_tire(c)) {
		c->last_us = sim_now_us(c->all->k);
		c->tired++;
		c->impatient = true;
		cli_advance(c);
		c->impatient = false;
		return;
	}
	/* One that still waits in the backlog has nobody to blame. */
	c->all->gave_up += c->all->calm && far_sock(c->all->k, c->far) != REC_NO_SOCK;
	cli_over(c, false);
}

static bool wakes_now(uint64_t till, uint64_t now)
{
	return till != 0 && till <= now;
}

static bool may_close(const struct cli *c)
{
	if (far_dead(c->all->k, c->far))
		return true;
	if (c->deaf_till_us)
		return false;
	return heard_all(c) || (c->leaving && !c->waits);
}

static unsigned able(const struct cli *c)
{
	const struct sim_kernel *k = c->all->k;
	uint64_t now = sim_now_us(k);
	unsigned can = 0;

	if (c->over)
		return 0;
	if (!c->born)
		return c->start_us <= now ? CAN_CONNECT : 0;
	if (may_close(c))
		return CAN_CLOSE;
	if (wakes_now(c->deaf_till_us, now) || wakes_now(c->mute_till_us, now))
		can |= CAN_WAKE;
	if (!c->mute_till_us && c->sent < c->released && room(c))
		can |= CAN_WRITE;
	if (!c->mute_till_us && !c->shut && c->sent >= c->shut_at &&
		(!c->veil || veil_idle(c->veil)))
		can |= CAN_SHUT;
	if (!c->deaf_till_us && readable(c))
		can |= CAN_READ;
	if (c->veil && !c->deaf_till_us && veil_may_take(c->veil))
		can |= CAN_TAKE;
	if (c->veil && !c->mute_till_us && veil_may_give(c->veil))
		can |= CAN_GIVE;
	if (can == 0 && !c->deaf_till_us && !c->mute_till_us && now >= c->last_us + patience_us(c))
		can = CAN_TIRE;
	return can;
}

static void act(struct cli *c, unsigned can)
{
	unsigned choices = 0, one = can;

	for (unsigned left = can; left; left &= left - 1)
		choices++;
	for (uint32_t skip = tape_pick(c->all->t, choices); skip > 0; skip--)
		one &= one - 1;
	one &= -one;
	switch (one) {
	case CAN_CONNECT:
		connect_now(c);
		break;
	case CAN_WRITE:
		write_some(c);
		break;
	case CAN_READ:
		read_some(c);
		break;
	case CAN_SHUT:
		shut(c);
		break;
	case CAN_WAKE:
		wake(c);
		break;
	case CAN_TAKE:
	case CAN_GIVE:
		carry(c, one);
		break;
	case CAN_TIRE:
		tire(c);
		break;
	default:
		say_bye(c);
		cli_over(c, false);
	}
}

bool clients_step(struct sim_clients *cs)
{
	uint32_t n = 0;
	struct cli *c;

	for (uint32_t i = 0; i < cs->conf.count; i++)
		if (able(&cs->c[i]))
			cs->ready[n++] = i;
	if (n == 0)
		return false;
	c = &cs->c[cs->ready[tape_pick(cs->t, n)]];
	act(c, able(c));
	return true;
}

static uint64_t next_of(const struct cli *c)
{
	uint64_t next = UINT64_MAX;

	if (c->over)
		return UINT64_MAX;
	if (!c->born)
		return c->start_us;
	if (c->deaf_till_us)
		next = c->deaf_till_us;
	if (c->mute_till_us)
		next = MIN_OF(next, c->mute_till_us);
	if (!c->deaf_till_us && !c->mute_till_us)
		next = c->last_us + patience_us(c);
	return next;
}

uint64_t clients_next_us(const struct sim_clients *cs)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < cs->conf.count; i++)
		next = MIN_OF(next, next_of(&cs->c[i]));
	return next;
}

/* ---- quiet times ---- */

static void calm_down(struct cli *c)
{
	c->death = DEATH_NONE;
	c->death_at = UINT64_MAX;
	c->deaf_till_us = c->mute_till_us = 0;
	c->last_us = sim_now_us(c->all->k);
	c->greedy = false;
	if (c->veil)
		veil_calm(c->veil);
	if (!c->born)
		c->over = true;
	if (c->over)
		return;
	/* Nothing tells the other end that no more comes, but this. */
	if (c->blind && c->quit_said && c->piece_at == c->piece_count && !c->shut)
		c->shut_at = c->released;
	cli_advance(c);
}

void clients_calm(struct sim_clients *cs)
{
	cs->calm = true;
	for (uint32_t i = 0; i < cs->conf.count; i++)
		calm_down(&cs->c[i]);
}

bool clients_gone(const struct sim_clients *cs)
{
	for (uint32_t i = 0; i < cs->conf.count; i++)
		if (!cs->c[i].over)
			return false;
	return true;
}

const struct octets *clients_heard(const struct sim_clients *cs, uint32_t who)
{
	ASSERT(who < cs->conf.count);
	return &cs->c[who].heard;
}

uint32_t clients_gave_up(const struct sim_clients *cs)
{
	return cs->gave_up;
}

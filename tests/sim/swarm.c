/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See swarm.h. Nothing here fails. The first alternative of every choice is the dull one: a tape
 * that is cut short or zeroed gives a plain world.
 */
#include "tests/sim/swarm.h"

#include "ring/stream.h"

#define FULL_QUEUE_BYTES 100u
#define CARRIED_BYTES (80u << 10) /* movers begin at 16 KiB */

enum theme swarm_theme(struct tape *t)
{
	static const uint8_t themes[16] = {[5] = THEME_TLS,
		THEME_TLS,
		THEME_HOOKS,
		THEME_HOOKS,
		THEME_HOOKS,
		THEME_HOOKS,
		[11] = THEME_STARTTLS,
		THEME_KILLED,
		THEME_SLOW,
		THEME_CARRIED,
		THEME_BOUND};

	return (enum theme)themes[tape_pick(t, ARRAY_LEN(themes))];
}

/* Large chunks, by whatever mover. */
static bool carries(enum theme theme)
{
	return theme == THEME_KILLED || theme == THEME_CARRIED;
}

/* ---- the kernel ---- */

/* Each fault is off in a quarter of the worlds, and all of them in one of eight. In most worlds
 * they are rarer than they could be: else no session would live for long. */
static void choose_faults(struct tape *t, uint8_t *rate)
{
	static const unsigned shares[] = {0, 8, 4, 4, 2, 2, 1, 1};
	/* As likely as what is like it elsewhere: recordings from before there were files hold no
	 * choice for it. */
	static const struct {
		enum sim_fault fault, like;
	} disk[] = {{FAULT_SHORT_WRITE, FAULT_SHORT_SEND}, {FAULT_SHORT_READ, FAULT_SHORT_RECV},
		{FAULT_SLOW_DISK, FAULT_LATE}, {FAULT_DISK_FULL, FAULT_NET_DIES},
		{FAULT_DISK_FAILS, FAULT_NET_DIES}, {FAULT_FILE_FAILS, FAULT_SOCKET_FAILS}};
	unsigned share = shares[tape_pick(t, ARRAY_LEN(shares))];

	for (unsigned i = 0; i < FAULT_SHORT_WRITE; i++)
		rate[i] = share && tape_pick(t, 4)
				  ? (uint8_t)(1 + tape_pick(t, sim_fault_max[i] / share + 1u))
				  : 0;
	for (unsigned i = 0; i < ARRAY_LEN(disk); i++)
		rate[disk[i].fault] = (uint8_t)(rate[disk[i].like] * sim_fault_max[disk[i].fault] /
						sim_fault_max[disk[i].like]);
}

void swarm_kernel(struct tape *t, enum theme theme, struct sim_kernel_conf *c)
{
	static const uint32_t features[] = {
		RING_FEAT_PBUF_INC | RING_FEAT_RECV_CAP | RING_FEAT_SEND_ZC,
		RING_FEAT_PBUF_INC | RING_FEAT_SEND_ZC, RING_FEAT_SEND_ZC, RING_FEAT_PBUF_INC, 0};
	static const uint32_t queues[] = {
		64u << 10, 16u << 10, 4096, 600, 256u << 10, FULL_QUEUE_BYTES};
	static const uint32_t bufs[][2] = {
		{16, 64u << 10}, {4, 4096}, {2, 256u << 10}, {8, 512}, {4, 16u << 10}};
	const uint32_t *b = bufs[tape_pick(t, ARRAY_LEN(bufs))];

	memset(c, 0, sizeof(*c));
	choose_faults(t, c->rate);
	c->features = features[tape_pick(t, ARRAY_LEN(features))];
	c->send_queue_bytes = queues[tape_pick(t, ARRAY_LEN(queues))];
	c->buf_count = b[0];
	c->buf_bytes = b[1];
	c->cq_entries = tape_pick(t, 4) ? 0 : 4u << tape_pick(t, 5);
	c->start_us = 1000000 + tape_pick(t, 1u << 20);
	c->crowded = (theme == THEME_STARTTLS || theme == THEME_KILLED) && tape_pick(t, 2);
	if (theme == THEME_KILLED)
		c->send_queue_bytes = MAX_OF(c->send_queue_bytes, 4096u);
	if (theme == THEME_CARRIED) /* more than a stream holds back at a time */
		c->send_queue_bytes = MAX_OF(c->send_queue_bytes, STREAM_HIGH_BYTES);
	if (theme == THEME_SLOW)
		c->rate[FAULT_SEND_AGAIN] = sim_fault_max[FAULT_SEND_AGAIN];
	if (theme == THEME_CARRIED)
		c->rate[FAULT_NO_PIPE] = c->rate[FAULT_NO_ZC] = 128;
}

/* ---- who talks ---- */

static bool suits(enum theme theme, const struct oracle_listener *l)
{
	if (theme == THEME_STARTTLS)
		return l->starttls_passed;
	if (theme == THEME_SLOW)
		return l->shortest_ms < 10000;
	if (theme == THEME_BOUND)
		return l->trusted;
	return !carries(theme) || !l->chunking_stripped;
}

uint32_t swarm_listener(struct tape *t, enum theme theme, const struct setup *s)
{
	uint32_t n = s->plain_count, i;

	if (theme == THEME_HOOKS)
		return n + tape_pick(t, s->tls_first - n);
	if (theme == THEME_TLS)
		return s->tls_first + tape_pick(t, s->conf->listener_count - s->tls_first);
	i = tape_pick(t, n);
	while (!suits(theme, &s->listeners[i]))
		i = (i + 1) % n;
	return i;
}

void swarm_servers(struct tape *t, enum theme theme, const struct oracle_listener *l, bool strict,
	struct servers_conf *c)
{
	c->manners = (enum srv_manners)tape_pick(t, theme == THEME_HOOKS ? 2 : 3);
	c->dies = tape_pick(t, 3) == 2;
	if (theme == THEME_HOOKS)
		return;
	c->starttls = l->starttls_passed && (tape_pick(t, 2) || theme == THEME_STARTTLS);
	c->auth = tape_pick(t, 3) == 1;
	c->slow = theme == THEME_SLOW || theme == THEME_CARRIED;
	c->fickle = theme == THEME_BOUND || theme == THEME_CARRIED;
	if (!strict && tape_pick(t, 2))
		c->lax = 1 + tape_pick(t, 127);
}

void swarm_clients(
	struct tape *t, enum theme theme, const struct oracle_listener *l, struct clients_conf *c)
{
	static const uint32_t bodies[] = {200, 1500, 9000, 80u << 10, 400u << 10};

	c->count = 1 + tape_small(t, 5);
	c->messages = 1 + tape_pick(t, 8);
	c->chunks = carries(theme);
	c->bulky = tape_pick(t, 6) == 5 || c->chunks;
	c->body_bytes =
		c->bulky ? bodies[ARRAY_LEN(bodies) - 1] : bodies[tape_pick(t, ARRAY_LEN(bodies))];
	if (theme == THEME_KILLED)
		c->body_bytes = CARRIED_BYTES;
	c->manners = (enum cli_manners)tape_pick(t, theme == THEME_HOOKS ? 2 : 3);
	c->dies = tape_pick(t, 3) == 2;
	c->stalls = tape_pick(t, 3) == 1;
	if (theme == THEME_HOOKS) {
		c->letters = true;
		return;
	}
	c->starttls = tape_pick(t, 2) || theme == THEME_STARTTLS;
	c->starttls_rushed = theme == THEME_STARTTLS;
	c->binds = theme == THEME_BOUND;
	c->auth = tape_pick(t, 3) == 1;
	c->bad_sender = l->bad_sender;
	c->bad_recipient = l->bad_recipient;
	c->bad_ehlo = l->bad_ehlo;
}

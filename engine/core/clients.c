/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The table of clients: see clients.h. Buckets of entries from a pool twice as large as the
 * sessions allow. An entry without a rate window goes with its last session; with one it stays
 * until the window is over, and is swept when no entry is left. A newcomer that finds none even so
 * is refused as if all sessions were taken. Keys are hashed with a random seed: an attacker who
 * picks addresses must not pick buckets.
 */
#include "engine/core/clients.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/random.h>

#define STRIPES 64
#define SWEEP_EVERY_MS 1000

struct entry {
	struct entry *next;
	uint8_t key[16];
	uint32_t open;	  /* sessions now */
	uint32_t arrived; /* in the window */
	uint64_t window_ms;
};

struct stripe {
	pthread_mutex_t lock;
	struct entry **buckets; /* owns */
	struct entry *pool, *free;
	uint32_t bucket_count, pool_count, fresh;
	uint64_t swept_ms;
};

struct clients {
	uint32_t sessions, max;
	uint64_t seed[2];
	struct stripe stripes[STRIPES];
};

static uint32_t power_of_two(uint32_t n)
{
	uint32_t p = 16;

	while (p < n)
		p *= 2;
	return p;
}

struct clients *clients_new(uint32_t sessions_max)
{
	struct clients *c = calloc(1, sizeof(*c));
	uint32_t per_stripe = power_of_two(sessions_max / STRIPES * 2 + 16);

	if (!c)
		return NULL;
	c->max = sessions_max;
	if (getrandom(c->seed, sizeof(c->seed), 0) != (ssize_t)sizeof(c->seed)) {
		free(c);
		return NULL;
	}
	for (unsigned i = 0; i < STRIPES; i++) {
		struct stripe *s = &c->stripes[i];

		pthread_mutex_init(&s->lock, NULL);
		s->bucket_count = s->pool_count = per_stripe;
		s->buckets = calloc(per_stripe, sizeof(*s->buckets));
		s->pool = calloc(per_stripe, sizeof(*s->pool));
		if (!s->buckets || !s->pool) {
			clients_free(c);
			return NULL;
		}
	}
	return c;
}

void clients_free(struct clients *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < STRIPES; i++) {
		free(c->stripes[i].buckets);
		free(c->stripes[i].pool);
	}
	free(c);
}

/* What one client is: an IPv4 address, or the /64 a host may choose from. False: nobody to count.
 */
static bool client_key(const struct ring_addr *a, uint8_t key[16])
{
	memset(key, 0, 16);
	if (a->sa.sa_family == AF_INET) {
		memcpy(key + 12, &((const struct sockaddr_in *)&a->ss)->sin_addr, 4);
		return true;
	}
	if (a->sa.sa_family == AF_INET6) {
		const uint8_t *ip = ((const struct sockaddr_in6 *)&a->ss)->sin6_addr.s6_addr;
		bool mapped =
			IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&a->ss)->sin6_addr);

		memcpy(key, ip, mapped ? 16 : 8);
		if (mapped)
			memset(key, 0, 12);
		else
			key[15] = 1; /* no clash with an IPv4 address */
		return true;
	}
	return false;
}

/* Keyed multiply-mix over the two halves; the seed keeps buckets unpredictable. */
static uint64_t hash_key(const struct clients *c, const uint8_t key[16])
{
	uint64_t half[2];

	memcpy(half, key, 16);
	__uint128_t m =
		(__uint128_t)(half[0] ^ c->seed[0]) * (half[1] ^ c->seed[1] ^ 0x9e3779b97f4a7c15u);
	uint64_t h = (uint64_t)m ^ (uint64_t)(m >> 64);
	m = (__uint128_t)(h ^ c->seed[1]) * 0xd6e8feb86659fd93u;
	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static struct entry **find(struct stripe *s, uint64_t h, const uint8_t key[16])
{
	struct entry **at = &s->buckets[(h >> 8) & (s->bucket_count - 1)];

	while (*at && memcmp((*at)->key, key, 16) != 0)
		at = &(*at)->next;
	return at;
}

static struct entry *take_entry(struct stripe *s)
{
	struct entry *e = s->free;

	if (e)
		s->free = e->next;
	else if (s->fresh < s->pool_count)
		e = &s->pool[s->fresh++];
	return e;
}

static void free_entry(struct stripe *s, struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	e->next = s->free;
	s->free = e;
}

/* Visitors of windows gone by, in all of the stripe: only when no entry is left. */
static void sweep(struct stripe *s, uint64_t now_ms)
{
	for (uint32_t b = 0; b < s->bucket_count; b++)
		for (struct entry **at = &s->buckets[b]; *at;) {
			if ((*at)->open == 0 && (*at)->window_ms <= now_ms)
				free_entry(s, at);
			else
				at = &(*at)->next;
		}
}

static struct entry *new_entry(struct stripe *s, const uint8_t key[16], uint64_t now_ms)
{
	struct entry *e = take_entry(s);

	if (!e && s->swept_ms + SWEEP_EVERY_MS <= now_ms) {
		s->swept_ms = now_ms;
		sweep(s, now_ms);
		e = take_entry(s);
	}
	if (e) {
		*e = (struct entry){.window_ms = 0};
		memcpy(e->key, key, 16);
	}
	return e;
}

static bool within(struct entry *e, const struct conf_listener_limits *max, uint64_t now_ms)
{
	if (e->window_ms <= now_ms) {
		e->window_ms = max->per_client_rate ? now_ms + max->rate_window_ms : 0;
		e->arrived = 0;
	}
	if (max->per_client_sessions && e->open >= max->per_client_sessions)
		return false;
	if (max->per_client_rate && e->arrived >= max->per_client_rate)
		return false;
	return true;
}

static int admit_key(struct clients *c, const struct conf_listener_limits *max,
	const uint8_t key[16], uint64_t now_ms)
{
	uint64_t h = hash_key(c, key);
	struct stripe *s = &c->stripes[h % STRIPES];
	int verdict = ADMIT_PER_CLIENT;

	pthread_mutex_lock(&s->lock);
	struct entry **at = find(s, h, key);
	if (!*at)
		*at = new_entry(s, key, now_ms);
	if (!*at) {
		verdict = ADMIT_FULL;
	} else if (within(*at, max, now_ms)) {
		(*at)->open++;
		(*at)->arrived++;
		verdict = ADMIT_OK;
	}
	pthread_mutex_unlock(&s->lock);
	return verdict;
}

int clients_admit(
	void *arg, const struct conf_listener *lis, const struct ring_addr *client, uint64_t now_ms)
{
	struct clients *c = arg;
	uint8_t key[16];

	if (__atomic_add_fetch(&c->sessions, 1, __ATOMIC_RELAXED) > c->max) {
		__atomic_sub_fetch(&c->sessions, 1, __ATOMIC_RELAXED);
		return ADMIT_FULL;
	}
	int verdict = client_key(client, key) ? admit_key(c, &lis->limits, key, now_ms) : ADMIT_OK;
	if (verdict != ADMIT_OK)
		__atomic_sub_fetch(&c->sessions, 1, __ATOMIC_RELAXED);
	return verdict;
}

void clients_release(void *arg, const struct ring_addr *client)
{
	struct clients *c = arg;
	uint8_t key[16];

	__atomic_sub_fetch(&c->sessions, 1, __ATOMIC_RELAXED);
	if (!client_key(client, key))
		return;
	uint64_t h = hash_key(c, key);
	struct stripe *s = &c->stripes[h % STRIPES];
	pthread_mutex_lock(&s->lock);
	struct entry **at = find(s, h, key);
	ASSERT(*at && (*at)->open > 0);
	/* Nothing to remember of a visitor without a rate window. */
	if (--(*at)->open == 0 && (*at)->window_ms == 0)
		free_entry(s, at);
	pthread_mutex_unlock(&s->lock);
}

uint32_t clients_sessions(const struct clients *c)
{
	return __atomic_load_n(&c->sessions, __ATOMIC_RELAXED);
}

uint32_t clients_sessions_max(const struct clients *c)
{
	return c->max;
}

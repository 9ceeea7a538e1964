/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sessions of servers that can be resumed, of one core: by where to (the caller's key) and the
 * policy that the server satisfied. A few of each, since connections to one server begin at the
 * same time and each uses one up; bounded in all, the one that was put in first goes first. Memory
 * is touched as it is used.
 */
#include "tls/tls_int.h"

#define BUCKETS 1024u

struct entry {
	struct list order, bucket;
	uint64_t key, policy;
	struct resume v;
};

struct tls_resumes {
	struct list order; /* of all entries in use, oldest first */
	struct list spare;
	uint32_t fresh; /* entries never used start here */
	struct list buckets[BUCKETS];
	struct entry entries[RESUMES_MAX];
};

struct tls_resumes *resumes_new(void)
{
	struct tls_resumes *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	list_init(&r->order);
	list_init(&r->spare);
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&r->buckets[i]);
	return r;
}

static struct list *bucket_of(struct tls_resumes *r, uint64_t key, uint64_t policy)
{
	uint64_t h = (key ^ policy * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;

	return &r->buckets[(h >> 32) % BUCKETS];
}

static struct entry *in_order(struct list *n)
{
	return CONTAINER_OF(n, struct entry, order);
}

/* Unlinked; its session is the caller's. */
static struct resume take_out(struct tls_resumes *r, struct entry *e)
{
	struct resume v = e->v;

	list_remove(&e->order);
	list_remove(&e->bucket);
	e->v.session = NULL;
	list_push_back(&r->spare, &e->order);
	return v;
}

static void drop(struct tls_resumes *r, struct entry *e)
{
	wolfSSL_SESSION_free(take_out(r, e).session);
}

void resumes_free(struct tls_resumes *r)
{
	if (r == NULL)
		return;
	while (!list_empty(&r->order))
		drop(r, in_order(r->order.next));
	free(r);
}

static struct entry *room(struct tls_resumes *r)
{
	struct list *n;

	if (list_empty(&r->spare) && r->fresh < RESUMES_MAX) {
		struct entry *e = &r->entries[r->fresh++];

		list_init(&e->order);
		list_init(&e->bucket);
		return e;
	}
	if (list_empty(&r->spare))
		drop(r, in_order(r->order.next));
	n = list_pop_front(&r->spare);
	return in_order(n);
}

static bool is_of(const struct entry *e, uint64_t key, uint64_t policy)
{
	return e->key == key && e->policy == policy;
}

void resumes_put(struct tls_resumes *r, uint64_t key, uint64_t policy, const struct resume *v)
{
	struct list *bucket = bucket_of(r, key, policy);
	struct entry *oldest = NULL, *e;
	unsigned n = 0;

	LIST_FOR(it, bucket)
	{
		e = CONTAINER_OF(it, struct entry, bucket);
		if (!is_of(e, key, policy))
			continue;
		if (oldest == NULL)
			oldest = e;
		n++;
	}
	if (n >= RESUMES_PER_KEY)
		drop(r, oldest);
	e = room(r);
	e->key = key;
	e->policy = policy;
	e->v = *v;
	list_push_back(&r->order, &e->order);
	list_push_back(bucket, &e->bucket);
}

bool resumes_take(struct tls_resumes *r, uint64_t key, uint64_t policy, struct resume *out)
{
	struct list *bucket = bucket_of(r, key, policy);

	for (struct list *it = bucket->prev; it != bucket; it = it->prev) {
		struct entry *e = CONTAINER_OF(it, struct entry, bucket);

		if (!is_of(e, key, policy))
			continue;
		*out = take_out(r, e);
		return true;
	}
	return false;
}

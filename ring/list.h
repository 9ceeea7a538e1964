/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Intrusive doubly linked list with a sentinel head. The list owns nothing: a node lives in
 * the object it chains. A node that is in no list points at itself, so "linked?" needs no flag.
 * Thread: whoever owns the head.
 */
#ifndef RING_LIST_H
#define RING_LIST_H

#include "ring/base.h"

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* True for a node that is in a list (a head asks list_empty instead). */
static inline bool list_linked(const struct list *n)
{
	return n->next != n;
}

static inline void list_push_back(struct list *head, struct list *n)
{
	ASSERT(!list_linked(n));
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

static inline void list_push_front(struct list *head, struct list *n)
{
	list_push_back(head->next, n);
}

/* Idempotent: removing an unlinked node does nothing. */
static inline void list_remove(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

static inline struct list *list_pop_front(struct list *head)
{
	struct list *n = head->next;

	if (n == head)
		return NULL;
	list_remove(n);
	return n;
}

/* Moves every node of `from`, in order, to the end of `to`; `from` is empty afterwards. */
static inline void list_splice_back(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define LIST_FOR(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
#define LIST_FOR_SAFE(it, head)                                                   \
	for (struct list *it = (head)->next, *it##_next = it->next; it != (head); \
		it = it##_next, it##_next = it->next)

#endif

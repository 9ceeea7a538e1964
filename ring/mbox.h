/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The only cross-core primitive: a bounded mailbox into one ring. Any thread posts, the ring's
 * thread receives inside ring_turn(). The bell rings only when the box was empty, so a burst costs
 * one wake-up. A full box refuses (counted); the poster decides what that means.
 */
#ifndef RING_MBOX_H
#define RING_MBOX_H

#include "ring/ring.h"

struct mbox_msg {
	uint32_t kind; /* the owner's */
	uint32_t num;
	void *ptr;
};

struct mbox;

/* `capacity`: power of two. NULL when there is no memory or descriptor for it. */
struct mbox *mbox_open(struct ring *r, uint32_t capacity,
	void (*receive)(void *arg, const struct mbox_msg *m), void *arg);
bool mbox_post(struct mbox *b, struct mbox_msg m); /* any thread; false = full */
uint64_t mbox_refused(const struct mbox *b);	   /* any thread */
/* Ring's thread, not from receive(); no poster may be left. What is still inside is received first.
 */
void mbox_close(struct ring *r, struct mbox *b);

#endif

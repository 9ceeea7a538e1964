/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The way of a log record from a worker to the control thread: a bounded ring of octets with one
 * producer and one consumer, no lock, no wait. A record goes in whole or not at all; the caller
 * counts what did not fit. Memory is touched as it is first used, so a quiet worker's stays small.
 *
 * Wake-up (eventfd(2), made by the sink as a semaphore): written when a record finds the buffer
 * more than half full and the last ring was answered. A ring may be missed when the producer passes
 * half just while a drain ends; the consumer therefore also drains on a timer, and such records are
 * late by one period, never lost.
 */
#include "engine/obs/log_buf.h"

#include <unistd.h>

struct log_buf *log_buf_new(size_t bytes, const struct conf_log *conf)
{
	ASSERT(bytes >= LOG_RECORD_BYTES_MAX && (bytes & (bytes - 1)) == 0);
	struct log_buf *b = aligned_alloc(_Alignof(struct log_buf), sizeof(*b));
	char *text = malloc(bytes);

	if (!b || !text) {
		free(b);
		free(text);
		return NULL;
	}
	memset(b, 0, sizeof(*b));
	b->text = text;
	b->mask = bytes - 1;
	b->level = conf->level;
	b->json = conf->format == LOG_JSON;
	b->wake_fd = -1;
	b->second = UINT64_MAX;
	return b;
}

void log_buf_free(struct log_buf *b)
{
	if (!b)
		return;
	free(b->text);
	free(b);
}

void log_buf_wake(struct log_buf *b, int fd)
{
	__atomic_store_n(&b->wake_fd, fd, __ATOMIC_RELAXED);
}

/* Says so first and rings then: the write wakes the consumer, who may run before we do again (it
 * does where both share a core), and must know whose count it finds. */
static void ring_consumer(struct log_buf *b)
{
	static const uint64_t one = 1;
	int fd = __atomic_load_n(&b->wake_fd, __ATOMIC_RELAXED);

	if (fd < 0 || __atomic_load_n(&b->wake, __ATOMIC_ACQUIRE) != LOG_WAKE_QUIET)
		return;
	__atomic_store_n(&b->wake, LOG_WAKE_RUNG, __ATOMIC_RELEASE);
	if (write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		__atomic_store_n(&b->wake, LOG_WAKE_QUIET, __ATOMIC_RELEASE);
}

/* More than `room` octets used? Looks at the consumer's index only when the old value says yes. */
static bool fuller_than(struct log_buf *b, uint64_t head, size_t room)
{
	if (head - b->tail_seen <= room)
		return false;
	b->tail_seen = __atomic_load_n(&b->tail, __ATOMIC_ACQUIRE);
	return head - b->tail_seen > room;
}

bool log_buf_push(struct log_buf *b, const char *record, size_t n)
{
	uint64_t head = __atomic_load_n(&b->head, __ATOMIC_RELAXED);
	size_t at = head & b->mask, first = MIN_OF(n, b->mask + 1 - at);
	bool room = !fuller_than(b, head + n, b->mask + 1);

	if (room) {
		memcpy(b->text + at, record, first);
		memcpy(b->text, record + first, n - first);
		head += n;
		__atomic_store_n(&b->head, head, __ATOMIC_RELEASE);
	}
	if (fuller_than(b, head, (b->mask + 1) / 2))
		ring_consumer(b);
	return room;
}

size_t log_buf_peek(const struct log_buf *b, struct iovec iov[2])
{
	uint64_t tail = __atomic_load_n(&b->tail, __ATOMIC_RELAXED);
	size_t n = __atomic_load_n(&b->head, __ATOMIC_ACQUIRE) - tail;
	size_t at = tail & b->mask, first = MIN_OF(n, b->mask + 1 - at);

	iov[0] = (struct iovec){b->text + at, first};
	iov[1] = (struct iovec){b->text, n - first};
	return n;
}

void log_buf_take(struct log_buf *b, size_t n)
{
	uint64_t tail = __atomic_load_n(&b->tail, __ATOMIC_RELAXED);

	ASSERT(n <= __atomic_load_n(&b->head, __ATOMIC_RELAXED) - tail);
	__atomic_store_n(&b->tail, tail + n, __ATOMIC_RELEASE);
}

bool log_buf_rung(const struct log_buf *b)
{
	return __atomic_load_n(&b->wake, __ATOMIC_ACQUIRE) == LOG_WAKE_RUNG;
}

void log_buf_seen(struct log_buf *b)
{
	__atomic_store_n(&b->wake, LOG_WAKE_SEEN, __ATOMIC_RELAXED);
}

void log_buf_quiet(struct log_buf *b)
{
	/* RUNG stays: its count is still to come. */
	if (__atomic_load_n(&b->wake, __ATOMIC_RELAXED) == LOG_WAKE_SEEN)
		__atomic_store_n(&b->wake, LOG_WAKE_QUIET, __ATOMIC_RELEASE);
}

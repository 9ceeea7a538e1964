/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inside of the log room only: one worker's buffer as log.c (producer), log_buf.c and log_sink.c
 * (consumer) see it. A ring of octets: the producer publishes whole records, newline included, so
 * whatever lies between tail and head is always complete lines and needs no framing.
 *
 * Two threads: fields below `producer` belong to the worker, those below `consumer` to the thread
 * that drains; each side reads the other's index with acquire and stores its own with release.
 */
#ifndef OBS_LOG_BUF_H
#define OBS_LOG_BUF_H

#include "engine/obs/log.h"

#include <sys/uio.h>

#define LOG_SECOND_TEXT_BYTES 19 /* 2026-11-26T01:02:03 */

/* The wake-up of one buffer. The producer rings only from QUIET, so a burst costs one eventfd write
 * however long the consumer stays away. */
enum log_wake {
	LOG_WAKE_QUIET,
	LOG_WAKE_RUNG, /* the descriptor holds one count of ours, or is about to */
	LOG_WAKE_SEEN, /* the consumer took that count, and has not emptied the buffer yet */
};

struct log_buf {
	/* constant once the producer runs */
	char *text; /* owns; mask + 1 octets */
	size_t mask;
	enum conf_log_level level;
	bool json;
	int wake_fd;   /* borrowed; -1: nobody to wake (atomic) */
	uint32_t wake; /* enum log_wake (atomic) */

	/* producer */
	_Alignas(64) uint64_t head; /* octets ever published (atomic) */
	uint64_t tail_seen; /* an old value of tail: saves reading the other core's cache line */
	uint64_t second;    /* of second_text; UINT64_MAX before the first record */
	char second_text[LOG_SECOND_TEXT_BYTES];

	/* consumer */
	_Alignas(64) uint64_t tail; /* octets ever taken (atomic) */
};

/* Producer. One whole record; false when there is no room for all of it. */
bool log_buf_push(struct log_buf *b, const char *record, size_t n);

/* Consumer. The octets published so far, in at most two pieces; returns their number. */
size_t log_buf_peek(const struct log_buf *b, struct iovec iov[2]);
void log_buf_take(struct log_buf *b, size_t n); /* at most what was peeked */
bool log_buf_rung(const struct log_buf *b); /* a count of it is in the wake-up descriptor, or comes */
void log_buf_seen(struct log_buf *b);	    /* one count was taken for it */
void log_buf_quiet(struct log_buf *b); /* a drain emptied it: the next burst may ring again */

#endif

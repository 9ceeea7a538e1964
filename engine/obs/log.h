/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Log records: one line each, JSON or logfmt, every value escaped. A worker writes into its own
 * bounded buffer (single producer, single consumer) and never waits: when it is full the record is
 * dropped and counted. The control thread drains all buffers to standard error or a file.
 *
 * Secrets: AUTH exchanges have no way in here; callers log mechanism names only.
 */
#ifndef OBS_LOG_H
#define OBS_LOG_H

#include "engine/conf/conf.h"
#include "engine/obs/stat.h"
#include "ring/base.h"

#define LOG_VALUE_BYTES_MAX 256 /* longer values are cut and end in "..." */
#define LOG_RECORD_BYTES_MAX 4096

/* Every kind of record. */
#define LOG_EVENTS(X)                                  \
	X(LOG_EV_START, "start", LOG_INFO)             \
	X(LOG_EV_STOP, "stop", LOG_INFO)               \
	X(LOG_EV_DRAIN, "drain", LOG_INFO)             \
	X(LOG_EV_SESSION, "session", LOG_INFO)         \
	X(LOG_EV_TRANSACTION, "transaction", LOG_INFO) \
	X(LOG_EV_IN_DOUBT, "in-doubt", LOG_WARN)       \
	X(LOG_EV_REFUSED, "refused", LOG_INFO)         \
	X(LOG_EV_UPSTREAM, "upstream", LOG_WARN)       \
	X(LOG_EV_PRESSURE, "pressure", LOG_WARN)       \
	X(LOG_EV_NOTE, "note", LOG_INFO)               \
	X(LOG_EV_WARNING, "warning", LOG_WARN)         \
	X(LOG_EV_CHANGE, "change", LOG_INFO)           \
	X(LOG_EV_COUNTERS, "hook-counters", LOG_INFO)  \
	X(LOG_EV_HOOK_ERROR, "hook-error", LOG_ERROR)  \
	X(LOG_EV_HOOK_WARN, "hook-warning", LOG_WARN)  \
	X(LOG_EV_HOOK_INFO, "hook", LOG_INFO)

enum log_event {
#define X(id, word, level) id,
	LOG_EVENTS(X)
#undef X
		LOG_EV_COUNT
};

struct log_buf; /* one worker's */

/* `bytes`: power of two. `format` and `level` from the configuration. NULL: no memory. */
struct log_buf *log_buf_new(size_t bytes, const struct conf_log *conf);
void log_buf_free(struct log_buf *b);

/* Building one record, on the producer's thread:
 *	struct log_rec r;
 *	if (log_begin(&r, buf, LOG_EV_SESSION, wall_us)) {
 *		log_str(&r, "client", span); log_u64(&r, "bytes", n);
 *		log_end(&r, stats);
 *	}
 * log_begin is false when the level hides it. Fields that do not fit are left out whole and the
 * record gets "truncated":true. */
struct log_rec {
	struct log_buf *buf;
	bool json, truncated;
	size_t n;
	char text[LOG_RECORD_BYTES_MAX];
};

bool log_begin(struct log_rec *r, struct log_buf *b, enum log_event ev, uint64_t wall_us);
void log_str(struct log_rec *r, const char *key, struct span value);
void log_cstr(struct log_rec *r, const char *key, const char *value); /* NULL: field left out */
void log_u64(struct log_rec *r, const char *key, uint64_t value);
void log_ms(struct log_rec *r, const char *key,
	uint64_t us); /* microseconds shown as milliseconds, 3 decimals */
void log_bool(struct log_rec *r, const char *key, bool value);
void log_id(struct log_rec *r, const char *key, uint64_t id); /* 16 hex digits */
void log_end(
	struct log_rec *r, struct stat_table *stats); /* drops and counts when the buffer is full */

/* Escaping alone (also what the fuzzers feed): JSON string with its quotes, or logfmt value, quoted
 * when it needs it; without reading past n, cut between characters at max.
 * Below 0x20, 0x7f, C1, invalid UTF-8, bidirectional and line separators become \u00xx-style
 * escapes. Returns octets written, at most max. */
size_t log_escape_json(char *out, size_t max, struct span v);
size_t log_escape_logfmt(char *out, size_t max, struct span v);

/* Consumer side: the control thread. */
struct log_sink;
struct log_sink *log_sink_open(const struct conf_log *conf,
	FILE *err); /* NULL and a message when the file cannot be opened */
/* Writes out everything that is complete in `b`; returns octets written. A failing write (disk
 * full) is counted and the records are lost, not retried for ever. */
size_t log_sink_drain(struct log_sink *s, struct log_buf *b);
uint64_t log_sink_lost(const struct log_sink *s); /* records lost to failed writes; any thread */
bool log_sink_reopen(struct log_sink *s); /* USR1: same path again; false keeps the old one */
void log_sink_close(struct log_sink *s);
/* A wake-up for the consumer when a buffer is more than half full: eventfd the consumer polls,
 * level triggered, until log_sink_drain() of that buffer. What lies below half waits for the
 * consumer's timer. */
int log_sink_fd(const struct log_sink *s);
void log_buf_wake(struct log_buf *b, int fd);

#endif

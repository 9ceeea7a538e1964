/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where log records go: a file, or standard error. Used by the control thread alone.
 *
 * A regular file takes whole batches in one writev(2), appended (O_APPEND, so logrotate may
 * truncate it and several processes may share it). Writing may wait for the disk; workers do not:
 * their buffers fill and they drop and count.
 *
 * Anything else (a pipe, a terminal, the journal's socket, a FIFO) may stop taking octets for ever.
 * It gets at most PIPE_BUF octets of whole records at a time, each after poll(2) said that it takes
 * some: a pipe then has a free page and write(2) does not wait (pipe(7)), whatever the flags of the
 * descriptor. They are not changed, as others may share standard error. When it takes none within
 * SINK_WAIT_MS the records stay in the buffers for a later drain.
 *
 * A failed write (disk full, reader gone) loses the records it was about, counted; they are not
 * tried again. A record written in part is ended with a newline before the next one, so one bad
 * line never spoils its neighbour. SIGPIPE is the process's to ignore.
 */
#include "engine/obs/log_buf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINK_WAIT_MS 20

_Static_assert(LOG_RECORD_BYTES_MAX <= PIPE_BUF, "a record must fit into one paced write");

struct log_sink {
	char *path;    /* owns; NULL = standard error */
	int fd;	       /* owns, unless standard error */
	int wake_fd;   /* owns */
	bool paced;    /* not a regular file */
	bool stuck;    /* took nothing the last time: do not wait again for each buffer */
	bool mid_line; /* what was written last ended inside a record */
	uint64_t lost; /* records (atomic) */
};

/* O_NONBLOCK is for a FIFO nobody reads, which would hold open(2) for ever; files do not care. */
static int open_file(const char *path)
{
	return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
}

static bool is_paced(int fd)
{
	struct stat st;

	return fstat(fd, &st) != 0 || !S_ISREG(st.st_mode);
}

static bool sink_fill(struct log_sink *s, const char *path)
{
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	s->fd = STDERR_FILENO;
	if (path) {
		s->path = strdup(path);
		s->fd = s->path ? open_file(path) : -1;
	}
	if (s->wake_fd < 0 || s->fd < 0)
		return false;
	s->paced = is_paced(s->fd);
	return true;
}

struct log_sink *log_sink_open(const struct conf_log *conf, FILE *err)
{
	struct log_sink *s = calloc(1, sizeof(*s));

	if (s && sink_fill(s, conf->path))
		return s;
	fprintf(err, "ringpost: cannot open the log %s: %s\n",
		conf->path ? conf->path : "(standard error)", strerror(errno));
	if (s)
		log_sink_close(s);
	return NULL;
}

void log_sink_close(struct log_sink *s)
{
	if (s->path && s->fd >= 0)
		close(s->fd);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	free(s->path);
	free(s);
}

bool log_sink_reopen(struct log_sink *s)
{
	int fd;

	if (!s->path)
		return true;
	fd = open_file(s->path);
	if (fd < 0)
		return false;
	close(s->fd);
	s->fd = fd;
	s->paced = is_paced(fd);
	s->stuck = s->mid_line = false;
	return true;
}

int log_sink_fd(const struct log_sink *s)
{
	return s->wake_fd;
}

uint64_t log_sink_lost(const struct log_sink *s)
{
	return __atomic_load_n(&s->lost, __ATOMIC_RELAXED);
}

/* Gives up the next `n` octets: as many records as newlines, the last of them perhaps not whole. */
static void lose(struct log_sink *s, struct log_buf *b, size_t n)
{
	struct iovec iov[2];
	uint64_t lines = 0;

	log_buf_peek(b, iov);
	for (size_t i = 0; i < n; i++) {
		const char *text = i < iov[0].iov_len ? iov[0].iov_base : iov[1].iov_base;

		lines += text[i < iov[0].iov_len ? i : i - iov[0].iov_len] == '\n';
	}
	__atomic_store_n(&s->lost, log_sink_lost(s) + lines, __ATOMIC_RELAXED);
	log_buf_take(b, n);
}

/* writev(2) that remembers whether it stopped inside a line. -1 and errno as usual. */
static ssize_t write_some(struct log_sink *s, const struct iovec *iov, int count)
{
	ssize_t n;

	do
		n = writev(s->fd, iov, count);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		bool in_first = (size_t)n <= iov[0].iov_len;
		const char *text = iov[in_first ? 0 : 1].iov_base;

		s->mid_line = text[n - 1 - (in_first ? 0 : (ssize_t)iov[0].iov_len)] != '\n';
	}
	return n;
}

/* Ends what an earlier failure left unfinished. */
static bool end_line(struct log_sink *s)
{
	static const char newline = '\n';
	const struct iovec iov = {(void *)(uintptr_t)&newline, 1};

	return !s->mid_line || write_some(s, &iov, 1) == 1;
}

/* A regular file: all `left` octets of the buffer. Returns octets written; the rest is lost. */
static size_t drain_batch(struct log_sink *s, struct log_buf *b, size_t left)
{
	size_t done = 0;
	bool ok = left > 0 && end_line(s);

	while (ok && left > 0) {
		struct iovec iov[2];
		ssize_t n;

		log_buf_peek(b, iov);
		iov[0].iov_len = MIN_OF(iov[0].iov_len, left);
		iov[1].iov_len = left - iov[0].iov_len;
		n = write_some(s, iov, 2);
		ok = n > 0;
		if (!ok)
			break;
		log_buf_take(b, (size_t)n);
		done += (size_t)n;
		left -= (size_t)n;
	}
	lose(s, b, left);
	return done;
}

enum ready { READY, NOT_NOW, GONE };

static enum ready wait_ready(struct log_sink *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};
	int n = poll(&p, 1, s->stuck ? 0 : SINK_WAIT_MS);

	if (n > 0 && (p.revents & (POLLERR | POLLNVAL)))
		return GONE;
	return n > 0 ? READY : NOT_NOW;
}

/* Copies whole records, at most PIPE_BUF octets of the `left` next ones. */
static size_t next_chunk(const struct log_buf *b, size_t left, char chunk[PIPE_BUF])
{
	struct iovec iov[2];
	size_t n = MIN_OF(left, (size_t)PIPE_BUF), first;
	const char *end;

	log_buf_peek(b, iov);
	first = MIN_OF(n, iov[0].iov_len);
	memcpy(chunk, iov[0].iov_base, first);
	memcpy(chunk + first, iov[1].iov_base, n - first);
	end = memrchr(chunk, '\n', n);
	ASSERT(end);
	return (size_t)(end - chunk) + 1;
}

/* One chunk to anything that is not a regular file. False: not now. */
static bool drain_chunk(struct log_sink *s, struct log_buf *b, size_t left, size_t *done)
{
	char chunk[PIPE_BUF];
	size_t n = next_chunk(b, left, chunk);
	enum ready ready = wait_ready(s);
	ssize_t put = -1;

	if (ready == NOT_NOW)
		return false;
	if (ready == READY) {
		const struct iovec iov = {chunk, n};

		put = end_line(s) ? write_some(s, &iov, 1) : -1;
		if (put < 0 && errno == EAGAIN)
			return false;
	}
	put = MAX_OF(put, 0);
	log_buf_take(b, (size_t)put);
	*done += (size_t)put;
	/* A rest is not kept: another buffer's records may come first. */
	lose(s, b, n - (size_t)put);
	return true;
}

static size_t drain_paced(struct log_sink *s, struct log_buf *b, size_t left)
{
	size_t done = 0;
	uint64_t end = b->tail + left;

	while (b->tail != end) {
		s->stuck = !drain_chunk(s, b, end - b->tail, &done);
		if (s->stuck)
			break;
	}
	return done;
}

size_t log_sink_drain(struct log_sink *s, struct log_buf *b)
{
	struct iovec iov[2];
	uint64_t count;
	size_t left, done;

	/* Nothing there yet: the count is on its way, and wakes whoever polls when it comes. */
	if (log_buf_rung(b) && read(s->wake_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		log_buf_seen(b);
	left = log_buf_peek(b, iov);
	done = s->paced ? drain_paced(s, b, left) : drain_batch(s, b, left);
	if (!s->stuck)
		log_buf_quiet(b);
	return done;
}

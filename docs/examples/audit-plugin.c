/* SPDX-License-Identifier: 0BSD
 *
 * An audit log as a plugin of ringpost: a line for each sender, each recipient and each end of a
 * message, with what is known of the client's TLS, appended to the file that the option `path`
 * names.
 *
 *     cc -std=c99 -shared -fPIC -O2 $(pkg-config --cflags ringpost) -o audit-plugin.so \
 *             audit-plugin.c -lpthread
 *
 * event() must not wait for a disk: it adds its line to a buffer, and a thread of the plugin's own
 * writes. When the disk cannot keep up, lines are lost and not mail held up; ringpost's log says
 * so.
 */
#define _POSIX_C_SOURCE 200809L
#include <ringpost.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROOM (1u << 20)

struct audit {
	const struct ringpost_host *host;
	FILE *file;
	pthread_t writer;
	pthread_mutex_t lock; /* of what follows; held to copy a line, never to write */
	pthread_cond_t more;
	char lines[2][ROOM]; /* one is being filled, the other one written */
	size_t used;	     /* of the first */
	int filling, lost, ending;
};

static void *writing(void *self)
{
	struct audit *a = self;

	pthread_mutex_lock(&a->lock);
	while (a->used > 0 || !a->ending) {
		const char *lines = a->lines[a->filling];
		size_t n = a->used;
		int good = !a->lost;

		if (n == 0) {
			pthread_cond_wait(&a->more, &a->lock);
			continue;
		}
		a->filling = !a->filling;
		a->used = 0;
		a->lost = 0;
		pthread_mutex_unlock(&a->lock);
		good = fwrite(lines, 1, n, a->file) == n && fflush(a->file) == 0 && good;
		if (!good)
			a->host->log(a->host->handle, RINGPOST_LOG_ERROR, "lines were lost");
		pthread_mutex_lock(&a->lock);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static void keep(struct audit *a, const char *line, size_t n)
{
	pthread_mutex_lock(&a->lock);
	if (a->used + n <= ROOM) {
		memcpy(a->lines[a->filling] + a->used, line, n);
		a->used += n;
	} else {
		a->lost = 1;
	}
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
}

static int cut(struct ringpost_span s)
{
	return s.size < 200 ? (int)s.size : 200;
}

/* Nothing for a client without TLS. The name in a certificate that was not verified proves nothing,
 * so it is left out; its digest does, to who knows it. */
static int put_tls(char *line, size_t room, const struct ringpost_event *ev)
{
	size_t i;
	int n;

	/* The ringpost that calls may be older than the header. */
	if (!RINGPOST_HAS(ev, tls_verified) || ev->tls_version.size == 0)
		return 0;
	n = snprintf(line, room, " tls=%.*s cipher=%.*s bits=%u", cut(ev->tls_version),
		ev->tls_version.data, cut(ev->tls_cipher), ev->tls_cipher.data,
		(unsigned)ev->tls_bits);
	if (ev->tls_sha256.size > 0)
		n += snprintf(line + n, room - n, " cert=");
	for (i = 0; i < ev->tls_sha256.size; i++)
		n += snprintf(line + n, room - n, "%02x", (unsigned char)ev->tls_sha256.data[i]);
	if (ev->tls_verified)
		n += snprintf(line + n, room - n, " verified=<%.*s>", cut(ev->tls_subject),
			ev->tls_subject.size > 0 ? ev->tls_subject.data : "");
	return n;
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	static const char *const results[] = {
		"?", "accepted", "rejected", "aborted", "in-doubt", "client-gone", "discarded"};
	char line[2048]; /* an address has 1,024 octets at most, what put_tls() adds 750 */
	int i, n;

	(void)answer; /* this plugin objects to nothing */
	n = snprintf(line, sizeof(line), "%lld sid=%016llx tid=%016llx client=%.*s",
		(long long)time(NULL), (unsigned long long)ev->session,
		(unsigned long long)ev->transaction, (int)ev->client.size, ev->client.data);
	n += put_tls(line + n, sizeof(line) - n, ev);
	if (ev->kind == RINGPOST_TRANSACTION)
		n += snprintf(line + n, sizeof(line) - n, " result=%s bytes=%llu code=%u",
			results[ev->result <= RINGPOST_DISCARDED ? ev->result : 0],
			(unsigned long long)ev->bytes, (unsigned)ev->code);
	else
		n += snprintf(line + n, sizeof(line) - n, " %s=<%.*s>",
			ev->kind == RINGPOST_MAIL ? "from" : "to", (int)ev->address.size,
			ev->address.size > 0 ? ev->address.data : "");
	/* What a client sent must not end the line, nor move a terminal's cursor. */
	for (i = 0; i < n; i++)
		if (line[i] < ' ' || line[i] > '~')
			line[i] = '?';
	line[n++] = '\n';
	keep(self, line, (size_t)n);
	return RINGPOST_PASS;
}

static int open_audit(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct audit *a;

	if (option_count != 1 || strcmp(options[0].name, "path") != 0) {
		snprintf(error, error_size, "there is one option, `path`");
		return -1;
	}
	a = calloc(1, sizeof(*a));
	if (!a || !(a->file = fopen(options[0].value, "a"))) {
		snprintf(error, error_size, "%s: %s", options[0].value, strerror(errno));
		free(a);
		return -1;
	}
	a->host = host;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->more, NULL);
	if (pthread_create(&a->writer, NULL, writing, a) != 0) {
		snprintf(error, error_size, "no thread to write with");
		fclose(a->file);
		free(a);
		return -1;
	}
	*self = a;
	return 0;
}

static void close_audit(void *self)
{
	struct audit *a = self;

	pthread_mutex_lock(&a->lock);
	a->ending = 1;
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->writer, NULL);
	fclose(a->file);
	free(a);
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"audit", 0,
	RINGPOST_ON(RINGPOST_MAIL) | RINGPOST_ON(RINGPOST_RCPT) | RINGPOST_ON(RINGPOST_TRANSACTION),
	open_audit, close_audit, event};

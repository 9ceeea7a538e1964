/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Secrets of connections in NSS's format, for Wireshark and its like (SSLKEYLOGFILE). Any core may
 * write: each line is one write() to a file opened for appending. It blocks the ring for as long as
 * that takes, and whoever reads the file reads the mail: for debugging only. A 1.2 session that is
 * resumed has no line of its own; its secret is that of the session it began as.
 */
#include "tls/tls_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

struct tls_keylog {
	int fd; /* owns */
};

struct tls_keylog *tls_keylog_open(const char *path, struct tls_error *e)
{
	struct tls_keylog *l = malloc(sizeof(*l));

	if (l == NULL) {
		(void)ctx_error(e, path, "no memory");
		return NULL;
	}
	l->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (l->fd >= 0)
		return l;
	(void)ctx_error(e, path, "cannot be opened for writing: %s", strerror(errno));
	free(l);
	return NULL;
}

void tls_keylog_close(struct tls_keylog *k)
{
	if (k == NULL)
		return;
	close(k->fd);
	free(k);
}

static size_t put_hex(char *out, const uint8_t *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	return 2 * n;
}

#define RANDOM_BYTES 32
#define SECRET_BYTES_MAX 64

static void log_line(
	struct tls_keylog *l, WOLFSSL *ssl, const char *label, const void *secret, int n)
{
	char line[64 + 2 * RANDOM_BYTES + 2 * SECRET_BYTES_MAX];
	uint8_t random[RANDOM_BYTES];
	size_t at;

	if (n <= 0 || n > SECRET_BYTES_MAX ||
		wolfSSL_get_client_random(ssl, random, sizeof(random)) != sizeof(random))
		return;
	at = (size_t)snprintf(line, 60, "%s ", label);
	at += put_hex(line + at, random, sizeof(random));
	line[at++] = ' ';
	at += put_hex(line + at, secret, (size_t)n);
	line[at++] = '\n';
	/* What cannot be written is missing from a file that is for debugging. */
	if (write(l->fd, line, at) < 0)
		errno = 0;
	explicit_bzero(line, sizeof(line));
}

static int on_master(WOLFSSL *ssl, void *secret, int n, void *arg)
{
	log_line(arg, ssl, "CLIENT_RANDOM", secret, n);
	return 0;
}

static int on_secret(WOLFSSL *ssl, int id, const unsigned char *secret, int n, void *arg)
{
	static const char *const labels[] = {
		[CLIENT_EARLY_TRAFFIC_SECRET] = "CLIENT_EARLY_TRAFFIC_SECRET",
		[CLIENT_HANDSHAKE_TRAFFIC_SECRET] = "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
		[SERVER_HANDSHAKE_TRAFFIC_SECRET] = "SERVER_HANDSHAKE_TRAFFIC_SECRET",
		[CLIENT_TRAFFIC_SECRET] = "CLIENT_TRAFFIC_SECRET_0",
		[SERVER_TRAFFIC_SECRET] = "SERVER_TRAFFIC_SECRET_0",
		[EARLY_EXPORTER_SECRET] = "EARLY_EXPORTER_SECRET",
		[EXPORTER_SECRET] = "EXPORTER_SECRET",
	};

	if (id >= 0 && (size_t)id < ARRAY_LEN(labels))
		log_line(arg, ssl, labels[id], secret, n);
	return 0;
}

void keylog_attach(struct tls_keylog *l, WOLFSSL *ssl)
{
	if (l == NULL)
		return;
	(void)wolfSSL_set_secret_cb(ssl, on_master, l);
	(void)wolfSSL_set_tls13_secret_cb(ssl, on_secret, l);
}

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses as text and listening sockets.
 */
#include "ringtest.h"

#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct ring_addr must_parse(const char *s)
{
	struct ring_addr a;

	cr_assert(addr_parse(span_str(s), &a), "%s", s);
	return a;
}

Test(listen, text_round_trip)
{
	static const char *const good[] = {"127.0.0.1:25", "0.0.0.0:0", "255.255.255.255:65535",
		"[::1]:25", "[::]:2525", "[2001:db8::1]:587", "[::ffff:127.0.0.1]:25",
		"unix:/run/x.sock", "unix:@abstract", "unix:relative"};
	char buf[ADDR_TEXT_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct ring_addr a = must_parse(good[i]);

		cr_assert_str_eq(addr_text(&a, buf), good[i]);
	}
}

Test(listen, text_with_a_scope)
{
	struct ring_addr a = must_parse("[fe80::1%lo]:25");
	char buf[ADDR_TEXT_BYTES];

	cr_assert_str_eq(addr_text(&a, buf), "[fe80::1%lo]:25");
	cr_assert(!addr_parse(SPAN_LIT("[fe80::1%no-such-if]:25"), &a));
}

Test(listen, not_an_address)
{
	static const char *const bad[] = {"", ":", "25", "localhost:25", "127.0.0.1",
		"127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1", "127.0.0.1:2 5",
		"127.0.0.1:025000", "127.1:25", "256.0.0.1:25", "::1:25", "[::1]",
		"[::1]:", "[::1:25", "::1]:25", "[127.0.0.1]:25", "[]:25", "unix:", "unix:@",
		" 127.0.0.1:25", "127.0.0.1 :25"};
	char longer[200] = "unix:/";
	struct ring_addr a;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert(!addr_parse(span_str(bad[i]), &a), "%s", bad[i]);
	cr_assert(!addr_parse(span_of("127.0.0.1\0:25", 13), &a));
	cr_assert(!addr_parse(span_of("unix:/a\0b", 9), &a));
	memset(longer + 6, 'x', 150);
	cr_assert(!addr_parse(span_of(longer, 5 + 108), &a), "no room for the NUL");
	cr_assert(addr_parse(span_of(longer, 5 + 107), &a));
}

Test(listen, text_fits_its_buffer)
{
	char buf[ADDR_TEXT_BYTES + 1], path[120] = "unix:@";
	struct ring_addr a;

	memset(path + 6, 'y', 107);
	cr_assert(addr_parse(span_of(path, 5 + 108), &a));
	buf[ADDR_TEXT_BYTES] = 'z';
	cr_assert_eq(strlen(addr_text(&a, buf)), 5 + 108);
	cr_assert_eq(buf[ADDR_TEXT_BYTES], 'z');
	memset(&a, 0, sizeof(a));
	cr_assert_str_eq(addr_text(&a, buf), "none");
}

Test(listen, questions)
{
	static const struct {
		const char *text;
		bool loopback, wildcard;
		uint16_t port;
	} row[] = {
		{"127.0.0.1:25", true, false, 25},
		{"127.255.0.9:26", true, false, 26},
		{"126.0.0.1:1", false, false, 1},
		{"0.0.0.0:25", false, true, 25},
		{"[::]:25", false, true, 25},
		{"[::ffff:0.0.0.0]:25", false, true, 25},
		{"[::1]:25", true, false, 25},
		{"[::2]:25", false, false, 25},
		{"[::ffff:127.0.0.1]:25", true, false, 25},
		{"[::ffff:10.0.0.1]:25", false, false, 25},
		{"192.0.2.1:65535", false, false, 65535},
		{"unix:/run/x", true, false, 0},
		{"unix:@x", true, false, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(row); i++) {
		struct ring_addr a = must_parse(row[i].text);

		cr_assert_eq(addr_is_loopback(&a), row[i].loopback, "%s", row[i].text);
		cr_assert_eq(addr_is_wildcard(&a), row[i].wildcard, "%s", row[i].text);
		cr_assert_eq(addr_port(&a), row[i].port, "%s", row[i].text);
	}
}

Test(listen, equal)
{
	static const char *const all[] = {"127.0.0.1:25", "127.0.0.1:26", "127.0.0.2:25",
		"[::1]:25", "[::2]:25", "unix:/a", "unix:/ab", "unix:@a"};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		for (size_t j = 0; j < ARRAY_LEN(all); j++) {
			struct ring_addr a = must_parse(all[i]), b = must_parse(all[j]);

			cr_assert_eq(addr_equal(&a, &b), i == j, "%s %s", all[i], all[j]);
		}
	struct ring_addr a = must_parse("unix:/a"), b = a;
	b.len = sizeof(struct sockaddr_un); /* as getsockname may tell it */
	cr_assert(addr_equal(&a, &b));
}

static int option(struct ring_fd fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	getsockopt(fd.v, level, name, &v, &n);
	return v;
}

Test(listen, options)
{
	struct ring_addr a = must_parse("[::1]:0");
	struct ring_fd fd, plain;

	cr_assert_eq(listen_open(&a, 8, true, &fd), RING_OK);
	cr_assert_eq(option(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	cr_assert_eq(option(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	cr_assert_eq(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
	cr_assert_eq(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	cr_assert_eq(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	cr_assert(fcntl(fd.v, F_GETFL) & O_NONBLOCK);
	cr_assert(fcntl(fd.v, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(listen_open(&a, 8, false, &plain), RING_OK);
	cr_assert_eq(option(plain, SOL_SOCKET, SO_REUSEPORT), 0);
	listen_close(&fd);
	cr_assert(!ring_fd_ok(fd));
	listen_close(&fd); /* again: nothing */
	listen_close(&plain);
}

Test(listen, port_shared_only_with_reuseport)
{
	struct ring_addr a = {0};
	struct ring_fd one = listener(&a, true), two, three;

	cr_assert_eq(listen_open(&a, 8, true, &two), RING_OK);
	cr_assert_eq(listen_open(&a, 8, false, &three), RING_ADDRINUSE);
	cr_assert(!ring_fd_ok(three));
	listen_close(&one);
	listen_close(&two);
}

Test(listen, refusals_are_reasons)
{
	struct ring_addr a = must_parse("192.0.2.1:25");
	struct ring_fd fd;

	cr_assert_eq(listen_open(&a, 8, false, &fd), RING_ADDRNOTAVAIL);
	a = must_parse("unix:/nonexistent/dir/socket");
	cr_assert_eq(listen_open(&a, 8, false, &fd), RING_NOENT);
}

Test(listen, stale_unix_socket_is_replaced)
{
	char dir[] = "/tmp/ringpost-test-XXXXXX", path[64], text[80];
	struct ring_addr a;
	struct ring_fd one, two;
	FILE *f;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	snprintf(text, sizeof(text), "unix:%s", path);
	a = must_parse(text);
	cr_assert_eq(listen_open(&a, 8, true, &one), RING_OK);
	cr_assert_eq(listen_open(&a, 8, false, &two), RING_ADDRINUSE, "a live one is left alone");
	listen_close(&one);
	cr_assert_eq(access(path, F_OK), 0);
	cr_assert_eq(listen_open(&a, 8, false, &two), RING_OK);
	listen_close(&two);
	unlink(path);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	fclose(f);
	cr_assert_eq(listen_open(&a, 8, false, &two), RING_ADDRINUSE, "not a socket: kept");
	cr_assert_eq(access(path, F_OK), 0);
	unlink(path);
	rmdir(dir);
}

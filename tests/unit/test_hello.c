/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * tls/hello.h: what is read out of a ClientHello, however it is cut into records and receives, and
 * what is refused. Each input lies at the end of memory of its own, so that the sanitizers see a
 * step too far.
 */
#include "tests/unit/hellobed.h"
#include "tls/hello.h"

#include <criterion/criterion.h>

static uint8_t scratch[HELLO_BYTES_MAX + 4];
static struct octets wire, message;
static struct hello h;

static enum hello_result read_octets(const uint8_t *p, size_t n)
{
	uint8_t *own = malloc(n + 1);
	enum hello_result res;

	cr_assert(own != NULL);
	memcpy(own + 1, p, n);
	memset(scratch, 0xa5, sizeof(scratch));
	res = hello_read(span_of(own + 1, n), scratch, &h);
	free(own);
	return res;
}

static enum hello_result read_form(const struct hello_form *f)
{
	make_hello(&wire, f);
	return read_octets(wire.p, wire.n);
}

static const struct hello_form modern = {
	.sni = "mx.example.org",
	.alpn = {"smtp"},
	.shares = {29, 23},
	.versions = {0x0304, 0x0303},
};

Test(hello, says_what_is_in_it)
{
	cr_assert_eq(read_form(&modern), HELLO_WHOLE);
	cr_assert(span_eq(h.sni, SPAN_LIT("mx.example.org")));
	cr_assert(h.tls13 && h.alpn && h.smtp);
	cr_assert_eq(h.kinds, HELLO_RSA | HELLO_P256);
	cr_assert_eq(read_form(&(struct hello_form){0}), HELLO_WHOLE);
	cr_assert(h.sni.n == 0 && !h.tls13 && !h.alpn && !h.smtp);
}

Test(hello, every_truncation_wants_more)
{
	make_hello(&wire, &modern);
	for (size_t n = 0; n < wire.n; n++)
		cr_assert_eq(read_octets(wire.p, n), HELLO_MORE, "%zu of %zu octets", n, wire.n);
	/* What follows is not its business. */
	put_run(&wire, "and more", 8);
	cr_assert_eq(read_octets(wire.p, wire.n), HELLO_WHOLE);
}

Test(hello, a_message_that_ends_too_early_is_bad)
{
	make_message(&message, &modern);
	for (size_t n = 4; n < message.n; n++) {
		struct octets cut = message;

		cut.n = n;
		close_vector(&cut, 4, 3);
		wrap(&wire, &cut, 16384);
		/* Behind the compression methods it may end: a hello without extensions. */
		enum hello_result want = n == 4 + 2 + 32 + 1 + 2 + 6 + 2 ? HELLO_WHOLE : HELLO_BAD;
		cr_assert_eq(read_octets(wire.p, wire.n), want, "%zu octets", n);
	}
}

Test(hello, no_octet_leads_astray)
{
	make_hello(&wire, &modern);
	for (size_t i = 0; i < wire.n; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			wire.p[i] ^= (uint8_t)(1u << bit);
			(void)read_octets(wire.p, wire.n);
			wire.p[i] ^= (uint8_t)(1u << bit);
		}
}

Test(hello, may_come_in_several_records)
{
	make_message(&message, &modern);
	for (size_t piece = 1; piece <= message.n; piece++) {
		bool too_many = (message.n + piece - 1) / piece > HELLO_RECORDS_MAX;

		wrap(&wire, &message, piece);
		cr_assert_eq(read_octets(wire.p, wire.n), too_many ? HELLO_BAD : HELLO_WHOLE,
			"records of %zu", piece);
		cr_assert(too_many || span_eq(h.sni, SPAN_LIT("mx.example.org")));
	}
}

Test(hello, what_is_not_tls)
{
	static const char *const others[] = {"E", "EHLO x\r\n", "GET / HTTP/1.0\r\n",
		"\x80\x2e\x01\x00\x02", "\x16\x02", "\x15\x03"};

	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		cr_assert_eq(read_octets((const uint8_t *)others[i], strlen(others[i])),
			HELLO_NOT_TLS, "case %zu", i);
}

static void assert_bad(const struct octets *o, uint8_t alert)
{
	cr_assert_eq(read_octets(o->p, o->n), HELLO_BAD);
	cr_assert_eq(h.alert, alert, "alert %u instead of %u", h.alert, alert);
}

Test(hello, records_that_cannot_be)
{
	struct octets server_hello = {.p = {22, 3, 3, 0, 4, 2}, .n = 6};
	struct octets empty = {.p = {22, 3, 3, 0, 0}, .n = 5};
	struct octets large = {.p = {22, 3, 3, 0x40, 1, 1}, .n = 6};
	struct octets other = {.p = {22, 3, 1, 0, 1, 1, 23, 3, 1, 0, 1}, .n = 11};
	struct octets longest = {.p = {22, 3, 1, 0, 4, 1, 0, 0x40, 1}, .n = 9};

	assert_bad(&server_hello, 10);
	assert_bad(&empty, 50);
	assert_bad(&large, 22);
	assert_bad(&other, 10);
	assert_bad(&longest, 50);
}

Test(hello, is_bounded)
{
	struct hello_form f = modern;

	make_message(&message, &modern);
	f.padding = HELLO_BYTES_MAX + 4 - message.n - 4;
	make_message(&message, &f);
	cr_assert_eq(message.n, HELLO_BYTES_MAX + 4);
	wrap(&wire, &message, 1100);
	cr_assert_eq(read_octets(wire.p, wire.n), HELLO_WHOLE);
	for (size_t n = 0; n < wire.n; n += 97)
		cr_assert_eq(read_octets(wire.p, n), HELLO_MORE);
	f.padding++;
	make_message(&message, &f);
	wrap(&wire, &message, 16384);
	assert_bad(&wire, 50);
	/* As many octets as can be waited for, and none of them useful. */
	memset(wire.p, 22, sizeof(wire.p));
	for (size_t i = 0; i < sizeof(wire.p) - 6; i += 6)
		memcpy(wire.p + i, "\x16\x03\x01\x00\x01\x01", 6);
	cr_assert_neq(read_octets(wire.p, HELLO_WIRE_MAX + 1), HELLO_MORE);
}

Test(hello, the_same_group_twice)
{
	struct hello_form f = modern;

	f.shares[2] = 29;
	cr_assert_eq(read_form(&f), HELLO_BAD);
	cr_assert_eq(h.alert, 47);
	for (uint16_t i = 0; i < 65; i++)
		f.shares[i] = 0x1000 + i;
	cr_assert_eq(read_form(&f), HELLO_BAD, "more groups than there are");
	f.shares[64] = 0;
	cr_assert_eq(read_form(&f), HELLO_WHOLE);
}

Test(hello, the_same_extension_twice)
{
	static const uint16_t known[] = {0, 13, 16, 51};

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		struct hello_form f = {.twice = known[i] + 1, .no_schemes = true};

		cr_assert_eq(read_form(&f), HELLO_BAD, "extension %u", known[i]);
		cr_assert_eq(h.alert, 47);
	}
	/* What is not read here is not judged here. */
	cr_assert_eq(read_form(&(struct hello_form){.twice = 5 + 1}), HELLO_WHOLE);
}

Test(hello, protocols)
{
	cr_assert_eq(read_form(&(struct hello_form){.alpn = {"h2", "http/1.1"}}), HELLO_WHOLE);
	cr_assert(h.alpn && !h.smtp);
	cr_assert_eq(read_form(&(struct hello_form){.alpn = {"h2", "smtp"}}), HELLO_WHOLE);
	cr_assert(h.alpn && h.smtp);
	cr_assert_eq(read_form(&(struct hello_form){.alpn = {"smtps"}}), HELLO_WHOLE);
	cr_assert(!h.smtp);
	cr_assert_eq(read_form(&(struct hello_form){.alpn = {""}}), HELLO_BAD);
}

Test(hello, names)
{
	static char longest[HELLO_NAME_MAX + 2];
	struct hello_form f = {.sni = longest};

	memset(longest, 'a', HELLO_NAME_MAX);
	cr_assert_eq(read_form(&f), HELLO_WHOLE);
	cr_assert_eq(h.sni.n, HELLO_NAME_MAX);
	longest[HELLO_NAME_MAX] = 'a';
	cr_assert_eq(read_form(&f), HELLO_BAD);
	cr_assert_eq(read_form(&(struct hello_form){.sni = ""}), HELLO_BAD);
	cr_assert_eq(read_form(&(struct hello_form){.sni = "a\0b", .sni_n = 3}), HELLO_WHOLE);
	cr_assert_eq(h.sni.n, 3);
}

static uint8_t kinds(struct hello_form f)
{
	cr_assert_eq(read_form(&f), HELLO_WHOLE);
	return h.kinds;
}

Test(hello, what_certificates_it_can_check)
{
	const uint8_t any = HELLO_P256 | HELLO_P384 | HELLO_P521;

	/* 1.3: by the schemes, and those are of one curve each. */
	cr_assert_eq(
		kinds((struct hello_form){.versions = {0x0304}, .schemes = {0x0503}}), HELLO_P384);
	cr_assert_eq(kinds((struct hello_form){.versions = {0x0304}, .schemes = {0x0603, 0x0806}}),
		HELLO_P521 | HELLO_RSA);
	cr_assert_eq(kinds((struct hello_form){.versions = {0x0304}, .schemes = {0x0401}}), 0);
	/* Without a suite of 1.3 it is 1.2. */
	cr_assert_eq(
		kinds((struct hello_form){.versions = {0x0304}, .suites = {0xc02f}}), HELLO_RSA);
	cr_assert(!h.tls13);
	/* 1.2: by suites and schemes. */
	cr_assert_eq(kinds((struct hello_form){.suites = {0xc02b}}), any);
	cr_assert_eq(kinds((struct hello_form){.suites = {0xc030}}), HELLO_RSA);
	cr_assert_eq(kinds((struct hello_form){.suites = {0xc02b, 0xc02f}, .schemes = {0x0401}}),
		HELLO_RSA);
	cr_assert_eq(kinds((struct hello_form){.suites = {0xcca9}, .no_schemes = true}), any);
	cr_assert_eq(kinds((struct hello_form){.no_extensions = true}), any | HELLO_RSA);
}

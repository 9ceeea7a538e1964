/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The codec of Postfix policy delegation (engine/hook/policy/policy_wire.h): requests of every state
 * against literals, replies of every shape, each also in two pieces cut anywhere.
 */
#include <criterion/criterion.h>

#include "engine/hook/policy/policy_wire.h"
#include "engine/smtp/cmd.h"

/* ---- requests ---- */

/* Every member has a value, also those that must not be told in some state. */
static struct policy_request full_request(enum policy_state state)
{
	return (struct policy_request){.protocol_state = state,
		.protocol_name = SPAN_LIT("ESMTP"),
		.client_address = SPAN_LIT("2001:db8::7"),
		.client_name = SPAN_LIT("mail.example.org"),
		.client_port = 54321,
		.reverse_client_name = SPAN_LIT("ptr.example.org"),
		.server_address = SPAN_LIT("192.0.2.1"),
		.server_port = 25,
		.helo_name = SPAN_LIT("helo.example.org"),
		.sender = SPAN_LIT("from@example.org"),
		.recipient = SPAN_LIT("to@example.net"),
		.recipient_count = 1,
		.queue_id = SPAN_LIT("1a2b"),
		.instance = SPAN_LIT("7.1"),
		.size = UINT64_MAX,
		.etrn_domain = SPAN_LIT("etrn.example"),
		.stress = SPAN_LIT("yes"),
		.sasl_method = SPAN_LIT("PLAIN"),
		.sasl_username = SPAN_LIT("joe"),
		.sasl_sender = SPAN_LIT("joe@example.org"),
		.ccert_subject = SPAN_LIT("subject"),
		.ccert_issuer = SPAN_LIT("Some+20One"),
		.ccert_fingerprint = SPAN_LIT("AA:BB"),
		.ccert_pubkey_fingerprint = SPAN_LIT("CC:DD"),
		.encryption_protocol = SPAN_LIT("TLSv1.3"),
		.encryption_cipher = SPAN_LIT("TLS_AES_256_GCM_SHA384"),
		.encryption_keysize = 256,
		.policy_context = SPAN_LIT("mx"),
		.compatibility_level = SPAN_LIT("3.6"),
		.mail_version = SPAN_LIT("3.7.11"),
		.tls_sni = SPAN_LIT("sni.example")};
}

#define HEAD(state)                                                                     \
	"request=smtpd_access_policy\nprotocol_state=" state "\nprotocol_name=ESMTP\n"  \
	"client_address=2001:db8::7\nclient_name=mail.example.org\nclient_port=54321\n" \
	"reverse_client_name=ptr.example.org\nserver_address=192.0.2.1\nserver_port=25\n"
#define HELO "helo_name=helo.example.org\n"
#define SENDER "sender=from@example.org\n"
#define RECIPIENT "recipient=to@example.net\n"
#define QUEUE "queue_id=1a2b\n"
#define INSTANCE "instance=7.1\n"
#define SIZE "size=18446744073709551615\n"
#define NO_TXN "sender=\nrecipient=\nrecipient_count=0\nqueue_id=\n" INSTANCE "size=0\n"
#define MID "etrn_domain=\nstress=yes\n"
#define SASL "sasl_method=PLAIN\nsasl_username=joe\n"
#define TAIL                                                                        \
	"ccert_subject=subject\nccert_issuer=Some+20One\nccert_fingerprint=AA:BB\n" \
	"ccert_pubkey_fingerprint=CC:DD\nencryption_protocol=TLSv1.3\n"             \
	"encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\n"        \
	"policy_context=mx\ncompatibility_level=3.6\nmail_version=3.7.11\n"         \
	"tls_sni=sni.example\n\n"
#define LOGIN SASL "sasl_sender=joe@example.org\n"
#define NO_SENDER SASL "sasl_sender=\n"

static const char *const full_texts[POLICY_STATE_COUNT] = {
	[POLICY_AT_CONNECT] = HEAD("CONNECT") "helo_name=\n" NO_TXN MID
					      "sasl_method=\nsasl_username=\nsasl_sender=\n" TAIL,
	[POLICY_AT_EHLO] = HEAD("EHLO") HELO NO_TXN MID NO_SENDER TAIL,
	[POLICY_AT_HELO] = HEAD("HELO") HELO NO_TXN MID NO_SENDER TAIL,
	[POLICY_AT_MAIL] = HEAD("MAIL") HELO SENDER
	"recipient=\nrecipient_count=0\n" QUEUE INSTANCE SIZE MID LOGIN TAIL,
	[POLICY_AT_RCPT] = HEAD("RCPT") HELO SENDER RECIPIENT
	"recipient_count=0\n" QUEUE INSTANCE SIZE MID LOGIN TAIL,
	[POLICY_AT_DATA] = HEAD("DATA") HELO SENDER RECIPIENT
	"recipient_count=1\n" QUEUE INSTANCE SIZE MID LOGIN TAIL,
	[POLICY_AT_EOM] = HEAD("END-OF-MESSAGE") HELO SENDER RECIPIENT
	"recipient_count=1\n" QUEUE INSTANCE SIZE MID LOGIN TAIL,
	[POLICY_AT_VRFY] = HEAD("VRFY") HELO SENDER RECIPIENT
	"recipient_count=0\n" QUEUE INSTANCE SIZE MID LOGIN TAIL,
	[POLICY_AT_ETRN] =
		HEAD("ETRN") HELO NO_TXN "etrn_domain=etrn.example\nstress=yes\n" NO_SENDER TAIL,
};

/* In a block of exactly `max` octets: the sanitizer watches. The caller frees p. */
static struct span write_into(const struct policy_request *r, size_t max)
{
	uint8_t *out = malloc(max > 0 ? max : 1);

	cr_assert(out);
	return span_of(out, policy_write(r, out, max));
}

static void expect_request(const struct policy_request *r, const char *want)
{
	struct span got = write_into(r, POLICY_REQUEST_BYTES_MAX);

	cr_expect(span_eq(got, span_str(want)), "got:\n%.*s\nnot:\n%s", (int)got.n,
		(const char *)got.p, want);
	free((void *)(uintptr_t)got.p);
}

Test(policy_wire, request_of_every_state)
{
	for (unsigned s = 0; s < POLICY_STATE_COUNT; s++) {
		struct policy_request r = full_request((enum policy_state)s);

		expect_request(&r, full_texts[s]);
	}
}

Test(policy_wire, request_that_knows_nothing)
{
	struct policy_request r = {0};

	expect_request(&r,
		"request=smtpd_access_policy\nprotocol_state=CONNECT\nprotocol_name=\n"
		"client_address=\nclient_name=\nclient_port=0\nreverse_client_name=\n"
		"server_address=\nserver_port=0\nhelo_name=\nsender=\nrecipient=\n"
		"recipient_count=0\nqueue_id=\ninstance=\nsize=0\netrn_domain=\nstress=\n"
		"sasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n"
		"ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=\n"
		"encryption_cipher=\nencryption_keysize=0\npolicy_context=\n"
		"compatibility_level=\nmail_version=\ntls_sni=\n\n");
}

/* Does the request have this line? */
static bool says(const struct policy_request *r, const char *line)
{
	struct span text = write_into(r, POLICY_REQUEST_BYTES_MAX);
	bool found = memmem(text.p, text.n, line, strlen(line)) != NULL;

	free((void *)(uintptr_t)text.p);
	return found;
}

Test(policy_wire, recipient_only_when_alone)
{
	for (unsigned s = POLICY_AT_RCPT; s <= POLICY_AT_EOM; s++) {
		struct policy_request r = full_request((enum policy_state)s);
		bool body = s != POLICY_AT_RCPT;

		r.recipient_count = 2;
		cr_expect(says(&r, body ? "\nrecipient=\n" : "\n" RECIPIENT), "%u", s);
		cr_expect(says(&r, body ? "\nrecipient_count=2\n" : "\nrecipient_count=0\n"));
		r.recipient_count = 0;
		cr_expect(says(&r, body ? "\nrecipient=\n" : "\n" RECIPIENT), "%u", s);
	}
}

/* Each octet in a value: one line comes of it, whatever it is. */
Test(policy_wire, every_octet_in_a_value)
{
	for (unsigned c = 0; c < 256; c++) {
		struct policy_request r = full_request(POLICY_AT_RCPT);
		uint8_t value[3] = {'a', (uint8_t)c, 'b'};
		char line[] = "\nhelo_name=a?b\nsender=from@example.org\n";

		if (c >= 0x20 && c != 0x7f)
			line[12] = (char)c;
		r.helo_name = span_of(value, sizeof(value));
		cr_expect(says(&r, line), "%u", c);
	}
}

Test(policy_wire, evil_values)
{
	struct policy_request r = full_request(POLICY_AT_RCPT);

	r.sender = SPAN_LIT("a\n\naction=OK\n\n");
	cr_expect(says(&r, "\nsender=a??action=OK??\nrecipient="));
	r.sender = SPAN_LIT("a\r\nrecipient=x\r\n");
	cr_expect(says(&r, "\nsender=a??recipient=x??\nrecipient=to@"));
	r.sender = SPAN_LIT("\0\t\x1b[0m\x7f\xc3\xa9=");
	cr_expect(says(&r, "\nsender=???[0m?\xc3\xa9=\nrecipient="));
}

/* At every buffer size: nothing, or all of it when there is room for exactly that. */
Test(policy_wire, every_buffer_size)
{
	for (unsigned s = 0; s < POLICY_STATE_COUNT; s++) {
		struct policy_request r = full_request((enum policy_state)s);
		size_t whole = strlen(full_texts[s]);

		for (size_t max = 0; max <= whole + 2; max++) {
			struct span got = write_into(&r, max);

			cr_expect(got.n == (max < whole ? 0 : whole), "%u %zu", s, max);
			free((void *)(uintptr_t)got.p);
		}
	}
}

/* All members as long as they can be, and longer. */
static struct policy_request longest_request(struct span value, enum policy_state state)
{
	struct policy_request r;

#define SET_FIXED(name)
#define SET_STATE(name) r.name = state;
#define SET_TEXT(name) r.name = value;
#define SET_NUMBER(name) r.name = UINT64_MAX;
#define X(name, kind, states) SET_##kind(name)
	POLICY_ATTRIBUTES(X)
#undef X
	return r;
}

Test(policy_wire, longest_request)
{
	static uint8_t value[POLICY_TEXT_VALUE_BYTES_MAX + 1];
	size_t texts = 0;

#define COUNT_FIXED 0
#define COUNT_STATE 0
#define COUNT_TEXT 1
#define COUNT_NUMBER 0
#define X(name, kind, states) texts += COUNT_##kind;
	POLICY_ATTRIBUTES(X)
#undef X
	memset(value, 'v', sizeof(value));
	for (unsigned s = 0; s < POLICY_STATE_COUNT; s++) {
		struct policy_request r =
			longest_request(span_of(value, sizeof(value) - 1), (enum policy_state)s);
		struct span got = write_into(&r, POLICY_REQUEST_BYTES_MAX), longer;

		cr_expect(got.n > 0);
		r = longest_request(span_of(value, sizeof(value)), (enum policy_state)s);
		longer = write_into(&r, POLICY_REQUEST_BYTES_MAX);
		cr_expect(span_eq(got, longer), "%u: a longer value is cut", s);
		/* etrn_domain has no value, nor has recipient, as there are many */
		if (s == POLICY_AT_EOM)
			cr_expect(got.n + 2 * (sizeof(value) - 1) == POLICY_REQUEST_BYTES_MAX);
		free((void *)(uintptr_t)got.p);
		free((void *)(uintptr_t)longer.p);
	}
	cr_expect(texts == 25, "%zu", texts);
	cr_expect(POLICY_REQUEST_BYTES_MAX > 25 * 1024 && POLICY_REQUEST_BYTES_MAX < 27 * 1024);
}

/* ---- what actions mean ---- */

struct row {
	const char *action; /* behind "action=" */
	enum policy_kind kind;
	const char *name;
	unsigned code;
	const char *enhanced, *text;
};

#define AD "Access denied"
#define SU "Service unavailable"

static const struct row rows[] = {
	/* pass */
	{"", POLICY_PASS, "", 0, "", ""},
	{"  \t", POLICY_PASS, "", 0, "", ""},
	{"OK", POLICY_PASS, "OK", 0, "", ""},
	{"ok", POLICY_PASS, "OK", 0, "", ""},
	{" oK ", POLICY_PASS, "OK", 0, "", ""},
	{"OK some words", POLICY_PASS, "OK", 0, "", "some words"},
	{"relay", POLICY_PASS, "RELAY", 0, "", ""},
	{"PERMIT", POLICY_PASS, "PERMIT", 0, "", ""},
	{"permit\tx", POLICY_PASS, "PERMIT", 0, "", "x"},
	{"DUNNO", POLICY_PASS, "DUNNO", 0, "", ""},
	{"dunno 5.7.1 text", POLICY_PASS, "DUNNO", 0, "", "5.7.1 text"},
	{"1", POLICY_PASS, "", 0, "", ""},
	{"0", POLICY_PASS, "", 0, "", ""},
	{"550", POLICY_PASS, "", 0, "", ""},
	{"450", POLICY_PASS, "", 0, "", ""},
	{" 1700000000", POLICY_PASS, "", 0, "", ""},
	{"99999999999999999999999999", POLICY_PASS, "", 0, "", ""},
	/* refusals */
	{"REJECT", POLICY_REJECT, "REJECT", 554, "5.7.1", AD},
	{"reject", POLICY_REJECT, "REJECT", 554, "5.7.1", AD},
	{"Reject  ", POLICY_REJECT, "REJECT", 554, "5.7.1", AD},
	{"REJECT go away", POLICY_REJECT, "REJECT", 554, "5.7.1", "go away"},
	{"\trejecT \t go  away\t ", POLICY_REJECT, "REJECT", 554, "5.7.1", "go  away"},
	{"REJECT 5.1.1 no such user", POLICY_REJECT, "REJECT", 554, "5.1.1", "no such user"},
	{"REJECT 5.999.999\t x", POLICY_REJECT, "REJECT", 554, "5.999.999", "x"},
	{"REJECT 5.7.26", POLICY_REJECT, "REJECT", 554, "5.7.26", AD},
	{"REJECT 4.7.1 later", POLICY_REJECT, "REJECT", 554, "5.7.1", "4.7.1 later"},
	{"REJECT 2.0.0 fine", POLICY_REJECT, "REJECT", 554, "5.7.1", "2.0.0 fine"},
	{"REJECT 5.7.1234 x", POLICY_REJECT, "REJECT", 554, "5.7.1", "5.7.1234 x"},
	{"REJECT 5.7.1: x", POLICY_REJECT, "REJECT", 554, "5.7.1", "5.7.1: x"},
	{"REJECT 5.7 x", POLICY_REJECT, "REJECT", 554, "5.7.1", "5.7 x"},
	{"REJECT 5.7.1.2 x", POLICY_REJECT, "REJECT", 554, "5.7.1", "5.7.1.2 x"},
	{"REJECT 550 5.1.1 x", POLICY_REJECT, "REJECT", 554, "5.7.1", "550 5.1.1 x"},
	{"REJECT a\r250 OK", POLICY_REJECT, "REJECT", 554, "5.7.1", "a?250 OK"},
	{"REJECT \x01\t\x1f\x7e\x7f\x80\xff.", POLICY_REJECT, "REJECT", 554, "5.7.1", "???~???."},
	{"REJECT \xc3\xa9", POLICY_REJECT, "REJECT", 554, "5.7.1", "??"},
	{"REJECT a=b=c", POLICY_REJECT, "REJECT", 554, "5.7.1", "a=b=c"},
	{"DEFER", POLICY_TEMPFAIL, "DEFER", 450, "4.7.1", AD},
	{"defer later", POLICY_TEMPFAIL, "DEFER", 450, "4.7.1", "later"},
	{"DEFER 4.2.0 greylisted", POLICY_TEMPFAIL, "DEFER", 450, "4.2.0", "greylisted"},
	{"DEFER 5.7.1 never", POLICY_TEMPFAIL, "DEFER", 450, "4.7.1", "5.7.1 never"},
	{"DEFER_IF_PERMIT", POLICY_DEFER_IF_PERMIT, "DEFER_IF_PERMIT", 450, "4.7.1", SU},
	{"defer_if_permit Greylisted", POLICY_DEFER_IF_PERMIT, "DEFER_IF_PERMIT", 450, "4.7.1",
		"Greylisted"},
	{"Defer_If_Permit 4.2.0 x", POLICY_DEFER_IF_PERMIT, "DEFER_IF_PERMIT", 450, "4.2.0", "x"},
	{"DEFER_IF_REJECT", POLICY_DEFER_IF_REJECT, "DEFER_IF_REJECT", 450, "4.7.1", SU},
	{"defer_if_reject 4.3.0 x", POLICY_DEFER_IF_REJECT, "DEFER_IF_REJECT", 450, "4.3.0", "x"},
	{"550 no", POLICY_CODE, "", 550, "5.7.1", "no"},
	{"550 5.1.1 no", POLICY_CODE, "", 550, "5.1.1", "no"},
	{"550\t5.1.1\tno", POLICY_CODE, "", 550, "5.1.1", "no"},
	{"550 4.1.1 no", POLICY_CODE, "", 550, "5.7.1", "4.1.1 no"},
	{"550 5.1.1", POLICY_CODE, "", 550, "5.1.1", AD},
	{"550 ", POLICY_CODE, "", 550, "5.7.1", AD},
	{"450 \t", POLICY_CODE, "", 450, "4.7.1", AD},
	{"400 x", POLICY_CODE, "", 400, "4.7.1", "x"},
	{"599 x", POLICY_CODE, "", 599, "5.7.1", "x"},
	{"421 4.7.0 bye", POLICY_CODE, "", 421, "4.7.0", "bye"},
	{"521 bye", POLICY_CODE, "", 521, "5.7.1", "bye"},
	{"451 5.3.5 x", POLICY_CODE, "", 451, "4.7.1", "5.3.5 x"},
	/* other actions */
	{"DISCARD", POLICY_DISCARD, "DISCARD", 0, "", ""},
	{"discard spam", POLICY_DISCARD, "DISCARD", 0, "", "spam"},
	{"WARN", POLICY_WARN, "WARN", 0, "", ""},
	{"warn 5.7.1 odd\xff", POLICY_WARN, "WARN", 0, "", "5.7.1 odd?"},
	{"INFO", POLICY_INFO, "INFO", 0, "", ""},
	{"Info a b", POLICY_INFO, "INFO", 0, "", "a b"},
	{"HOLD", POLICY_UNSUPPORTED, "HOLD", 0, "", ""},
	{"hold it", POLICY_UNSUPPORTED, "HOLD", 0, "", "it"},
	{"FILTER smtp:[::1]:10025", POLICY_UNSUPPORTED, "FILTER", 0, "", "smtp:[::1]:10025"},
	{"redirect a@b", POLICY_UNSUPPORTED, "REDIRECT", 0, "", "a@b"},
	{"BCC a@b", POLICY_UNSUPPORTED, "BCC", 0, "", "a@b"},
	{"delay 1h", POLICY_UNSUPPORTED, "DELAY", 0, "", "1h"},
	/* no action */
	{"x", POLICY_UNKNOWN, "", 0, "", ""},
	{"OK,", POLICY_UNKNOWN, "", 0, "", ""},
	{"OKAY", POLICY_UNKNOWN, "", 0, "", ""},
	{"O", POLICY_UNKNOWN, "", 0, "", ""},
	{"REJECTED", POLICY_UNKNOWN, "", 0, "", ""},
	{"REJECT\vx", POLICY_UNKNOWN, "", 0, "", ""},
	{"OK\r x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"DEFER_IF", POLICY_UNKNOWN, "", 0, "", ""},
	{"permit_mynetworks", POLICY_UNKNOWN, "", 0, "", ""},
	{"reject_unauth_destination, permit", POLICY_UNKNOWN, "", 0, "", "permit"},
	{"250 ok", POLICY_UNKNOWN, "", 0, "", "ok"},
	{"350 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"600 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"55 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"5500 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"5a0 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"550-x", POLICY_UNKNOWN, "", 0, "", ""},
	{"-550 x", POLICY_UNKNOWN, "", 0, "", "x"},
	{"action=OK", POLICY_UNKNOWN, "", 0, "", ""},
};

/* Reads a copy in a block of exactly its size. Spans of *out are gone afterwards. */
static enum policy_res read_copy(struct span in, size_t *used, struct policy_reply *out)
{
	uint8_t *copy = malloc(in.n > 0 ? in.n : 1);
	enum policy_res res;

	cr_assert(copy);
	if (in.n > 0)
		memcpy(copy, in.p, in.n);
	res = policy_read(span_of(copy, in.n), used, out);
	free(copy);
	return res;
}

/* Each prefix says "more", until the octet that decides; behind it nothing matters. */
static void expect_growing(struct span in, size_t decided, enum policy_res res)
{
	for (size_t n = 0; n <= in.n; n++) {
		struct policy_reply reply;
		size_t used = 99;
		enum policy_res got = read_copy(span_of(in.p, n), &used, &reply);

		cr_expect(got == (n < decided ? POLICY_MORE : res), "%.*s: %zu: %d", (int)in.n,
			(const char *)in.p, n, got);
		cr_expect(used == (got == POLICY_OK ? decided : 0));
	}
}

static void check_row(const struct row *row, const char *before, const char *end)
{
	char text[300];
	int n = snprintf(text, sizeof(text), "%saction=%s%s", before, row->action, end);
	struct span in = span_of(text, (size_t)n);
	struct policy_reply r;
	size_t used;

	cr_assert(policy_read(in, &used, &r) == POLICY_OK, "%s", text);
	cr_expect(used == in.n, "%s", text);
	cr_expect(r.kind == row->kind, "%s: %d", text, r.kind);
	cr_expect(strcmp(r.name, row->name) == 0, "%s: %s", text, r.name);
	cr_expect(r.code == row->code, "%s: %u", text, r.code);
	cr_expect(strcmp(r.enhanced, row->enhanced) == 0, "%s: %s", text, r.enhanced);
	cr_expect(strcmp(r.text, row->text) == 0, "%s: %s", text, r.text);
	cr_expect(r.header.n == 0 && !r.header_8bit);
	expect_growing(in, in.n, POLICY_OK);
}

Test(policy_wire, actions)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		check_row(&rows[i], "", "\n\n");
		check_row(&rows[i], "", "\r\n\r\n");
		check_row(&rows[i], "x=\n", "\n\r\n");
		check_row(&rows[i], "Action=OK\naction =OK\n", "\naction2=REJECT\n\n");
	}
}

Test(policy_wire, word_and_argument)
{
	struct policy_reply r;
	size_t used;

	cr_assert(policy_read(SPAN_LIT("action= Reject \t5.7.1 \xff\r \n\n"), &used, &r) ==
		  POLICY_OK);
	cr_expect(span_eq(r.word, SPAN_LIT("Reject")));
	cr_expect(span_eq(r.argument, SPAN_LIT("5.7.1 \xff\r")));
	cr_assert(policy_read(SPAN_LIT("action=\n\n"), &used, &r) == POLICY_OK);
	cr_expect(r.word.n == 0 && r.argument.n == 0 && used == 9);
}

/* ---- PREPEND ---- */

static const struct {
	const char *header;
	bool good, eight;
} headers[] = {
	{"X-Spam: yes", true, false},
	{"X-Spam:yes", true, false},
	{"X:", true, false},
	{"!#$%&'*+-/=?^_`{|}~\"(),.;<>@[\\]: any ftext", true, false},
	{"Received-SPF: pass\t(a: b)", true, false},
	{"Subject: caf\xc3\xa9", true, true},
	{"X: \x80", true, true},
	{"", false, false},
	{":", false, false},
	{": x", false, false},
	{"x", false, false},
	{"X-Spam yes", false, false},
	{"X-Spam : yes", false, false},
	{"X Spam: yes", false, false},
	{"X-Sp\x01m: yes", false, false},
	{"X-Sp\xc3\xa9m: yes", false, false},
	{"X-Sp\x7fm: yes", false, false},
	{"X-Spam: yes\rX-Evil: yes", false, false},
	{"X-Spam: \x1b[0m", false, false},
	{"X-Spam: \x7f", false, false},
	{"X-Spam: \v", false, false},
};

Test(policy_wire, prepend)
{
	for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
		const char *h = headers[i].header;
		char text[200];
		int n = snprintf(text, sizeof(text), "action=%s  %s \r\n\n",
			i % 2 ? "prepend" : "PREPEND", h);
		struct policy_reply r;
		size_t used;

		cr_assert(policy_read(span_of(text, (size_t)n), &used, &r) == POLICY_OK);
		cr_expect(strcmp(r.name, "PREPEND") == 0 && r.code == 0 && !*r.enhanced);
		cr_expect(
			r.kind == (headers[i].good ? POLICY_PREPEND : POLICY_BAD_HEADER), "%s", h);
		cr_expect(span_eq(r.header, headers[i].good ? span_str(h) : SPAN_NONE), "%s", h);
		cr_expect(r.header_8bit == headers[i].eight, "%s", h);
		expect_growing(span_of(text, (size_t)n), (size_t)n, POLICY_OK);
	}
}

/* "action=<word> <argument of n octets>\n\n"; what it was read as. */
static struct policy_reply with_argument(const char *word, const char *start, size_t n)
{
	static char text[POLICY_REPLY_BYTES_MAX];
	struct policy_reply r;
	size_t used, at = (size_t)snprintf(text, sizeof(text), "action=%s ", word);

	memset(text + at, 'x', n);
	memcpy(text + at, start, strlen(start));
	memcpy(text + at + n, "\n\n", 2);
	cr_assert(policy_read(span_of(text, at + n + 2), &used, &r) == POLICY_OK);
	return r;
}

Test(policy_wire, limit_of_a_header)
{
	struct policy_reply r = with_argument("PREPEND", "X: ", POLICY_HEADER_BYTES_MAX);

	cr_expect(r.kind == POLICY_PREPEND && r.header.n == POLICY_HEADER_BYTES_MAX);
	r = with_argument("PREPEND", "X: ", POLICY_HEADER_BYTES_MAX + 1);
	cr_expect(r.kind == POLICY_BAD_HEADER && r.header.n == 0);
}

/* The longest text behind the longest codes still is one line below 512 octets. */
Test(policy_wire, limit_of_a_text)
{
	uint8_t line[LOCAL_REPLY_BYTES_MAX];
	struct policy_reply r = with_argument("550", "5.999.999 ", 3000);
	struct local_reply reply = {r.code, r.enhanced, r.text, "policy"};
	size_t n;

	cr_expect(strlen(r.text) == POLICY_TEXT_BYTES_MAX);
	n = local_reply_write(&reply, NULL, line);
	cr_expect(n == LOCAL_REPLY_BYTES_MAX - 1, "%zu", n);
	cr_expect(memcmp(line, "550 5.999.999 xx", 16) == 0);
	cr_expect(memchr(line, '\n', n) == line + n - 1 && line[n - 2] == '\r');
	r = with_argument("WARN", "", POLICY_TEXT_BYTES_MAX);
	cr_expect(strlen(r.text) == POLICY_TEXT_BYTES_MAX);
	r = with_argument("WARN", "", POLICY_TEXT_BYTES_MAX - 1);
	cr_expect(strlen(r.text) == POLICY_TEXT_BYTES_MAX - 1);
}

/* Each octet in a refusal's text, seen in the line that the client would get. */
Test(policy_wire, every_octet_in_a_text)
{
	for (unsigned c = 1; c < 256; c++) {
		char text[] = "action=REJECT a?b\n\n", want[] = "554 5.7.1 a?b\r\n";
		uint8_t line[LOCAL_REPLY_BYTES_MAX];
		struct policy_reply r;
		struct local_reply reply;
		size_t used;

		text[15] = (char)c;
		if (c == '\n')
			continue;
		if (c >= 0x20 && c <= 0x7e)
			want[11] = (char)c;
		cr_assert(policy_read(span_str(text), &used, &r) == POLICY_OK);
		reply = (struct local_reply){r.code, r.enhanced, r.text, "policy"};
		cr_expect(span_eq(span_of(line, local_reply_write(&reply, NULL, line)),
				  span_str(want)),
			"%u", c);
	}
}

/* ---- framing ---- */

static const struct {
	const char *in;
	size_t n;
	enum policy_res res;
	size_t decided; /* octets up to the one that decides */
} frames[] = {
#define FRAME(in, ...)                          \
	{                                       \
		in, sizeof(in) - 1, __VA_ARGS__ \
	}
	FRAME("action=OK\n\n", POLICY_OK, 11),
	FRAME("action=OK\r\n\r\n", POLICY_OK, 13),
	FRAME("action=OK\n\r\n", POLICY_OK, 12),
	FRAME("action=\n\n", POLICY_OK, 9),
	FRAME("a=\nb==\naction=OK\nc=action=OK\n\nrest", POLICY_OK, 30),
	FRAME("action=OK\n\n\n", POLICY_OK, 11),
	FRAME("action=OK\n\naction=REJECT\n\n", POLICY_OK, 11),
	/* no action */
	FRAME("\n", POLICY_NO_ACTION, 1),
	FRAME("\r\n", POLICY_NO_ACTION, 2),
	FRAME("\naction=OK\n\n", POLICY_NO_ACTION, 1),
	FRAME("x=y\n\naction=OK\n\n", POLICY_NO_ACTION, 5),
	FRAME("ACTION=OK\n\n", POLICY_NO_ACTION, 11),
	FRAME(" action=OK\n\n", POLICY_NO_ACTION, 12),
	FRAME("action =OK\n\n", POLICY_NO_ACTION, 12),
	FRAME("actions=OK\n\n", POLICY_NO_ACTION, 12),
	/* no name=value */
	FRAME("OK\n\n", POLICY_NO_PAIR, 3),
	FRAME("action\n\n", POLICY_NO_PAIR, 7),
	FRAME("action: OK\n\n", POLICY_NO_PAIR, 11),
	FRAME("=OK\n\n", POLICY_NO_PAIR, 4),
	FRAME("=\n", POLICY_NO_PAIR, 2),
	FRAME(" \n", POLICY_NO_PAIR, 2),
	FRAME("\r\r\n", POLICY_NO_PAIR, 3),
	FRAME("action=OK\nx\n\n", POLICY_NO_PAIR, 12),
	FRAME("action=OK\n\r\r\n", POLICY_NO_PAIR, 13),
	FRAME("HTTP/1.1 400 Bad Request\r\n", POLICY_NO_PAIR, 26),
	/* two actions */
	FRAME("action=OK\naction=REJECT\n\n", POLICY_TWO_ACTIONS, 24),
	FRAME("action=OK\naction=OK\n\n", POLICY_TWO_ACTIONS, 20),
	FRAME("action=\naction=\n\n", POLICY_TWO_ACTIONS, 16),
	FRAME("action=OK\nx=y\naction=OK\n\n", POLICY_TWO_ACTIONS, 24),
	/* NUL */
	FRAME("\0\n", POLICY_NUL, 2),
	FRAME("action=O\0K\n\n", POLICY_NUL, 11),
	FRAME("action=OK\n\0=\n\n", POLICY_NUL, 13),
	FRAME("action=OK\nx\0\n\n", POLICY_NUL, 13),
	FRAME("action=OK\n\n\0", POLICY_OK, 11),
	/* unfinished */
	FRAME("", POLICY_MORE, 0),
	FRAME("action=OK", POLICY_MORE, 0),
	FRAME("action=OK\r", POLICY_MORE, 0),
	FRAME("action=OK\n", POLICY_MORE, 0),
	FRAME("action=OK\r\n\r", POLICY_MORE, 0),
	FRAME("x=y\nz=\nno pair", POLICY_MORE, 0),
};

Test(policy_wire, frames)
{
	for (size_t i = 0; i < ARRAY_LEN(frames); i++)
		expect_growing(
			span_of(frames[i].in, frames[i].n), frames[i].decided, frames[i].res);
}

Test(policy_wire, replies_behind_each_other)
{
	struct span in = SPAN_LIT("action=OK\n\naction=550 no\r\n\r\naction=DISCARD\n\nact");
	static const enum policy_kind want[] = {POLICY_PASS, POLICY_CODE, POLICY_DISCARD};
	struct policy_reply r;
	size_t used;

	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		cr_assert(policy_read(in, &used, &r) == POLICY_OK);
		cr_expect(r.kind == want[i]);
		in = span_drop(in, used);
	}
	cr_expect(policy_read(in, &used, &r) == POLICY_MORE && in.n == 3);
}

/* Nothing is said of a reply that is not one. */
Test(policy_wire, out_is_left_alone)
{
	struct policy_reply r, before;
	size_t used;

	memset(&r, 0x5a, sizeof(r));
	before = r;
	cr_expect(policy_read(SPAN_LIT("action=OK\naction=OK\n"), &used, &r) == POLICY_TWO_ACTIONS);
	cr_expect(policy_read(SPAN_LIT("action=OK\n"), &used, &r) == POLICY_MORE);
	cr_expect(policy_read(SPAN_NONE, &used, &r) == POLICY_MORE);
	cr_expect(memcmp(&r, &before, sizeof(r)) == 0);
}

/* A reply of `n` octets: "action=OK\n", then a line or lines of "x=...", then the empty line. */
static enum policy_res read_long(size_t n, size_t line, size_t *used)
{
	static char text[2 * POLICY_REPLY_BYTES_MAX];
	struct policy_reply r;

	memset(text, 'x', sizeof(text));
	for (size_t i = 11; i + 2 < n; i += line)
		text[i] = '=';
	for (size_t i = 9; i + 2 < n; i += line)
		text[i] = '\n';
	memcpy(text, "action=OK\n", 10);
	memcpy(text + n - 2, "\n\n", 2);
	return read_copy(span_of(text, n), used, &r);
}

Test(policy_wire, limit_of_a_reply)
{
	static const size_t lines[] = {POLICY_REPLY_BYTES_MAX * 2, 100, 6};
	size_t used;

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		cr_expect(read_long(POLICY_REPLY_BYTES_MAX, lines[i], &used) == POLICY_OK);
		cr_expect(used == POLICY_REPLY_BYTES_MAX, "%zu: %zu", lines[i], used);
		cr_expect(
			read_long(POLICY_REPLY_BYTES_MAX + 1, lines[i], &used) == POLICY_TOO_LONG);
		cr_expect(
			read_long(POLICY_REPLY_BYTES_MAX + 2, lines[i], &used) == POLICY_TOO_LONG);
		cr_expect(used == 0);
	}
}

Test(policy_wire, endless_line)
{
	static char text[POLICY_REPLY_BYTES_MAX];
	struct policy_reply r;
	size_t used;

	memset(text, 'x', sizeof(text));
	cr_expect(read_copy(span_of(text, sizeof(text) - 1), &used, &r) == POLICY_MORE);
	cr_expect(read_copy(span_of(text, sizeof(text)), &used, &r) == POLICY_TOO_LONG);
}

Test(policy_wire, results_have_texts)
{
	for (int r = POLICY_MORE; r <= POLICY_TOO_LONG; r++)
		cr_expect(strlen(policy_res_text((enum policy_res)r)) > 0);
}

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * engine/core/material and certs: what is made of the files of a configuration, what is told of
 * those that are no good, and what a HUP changes. With real files (tests/certs.sh, once for a source
 * tree) and the real library; time is what the tests say it is.
 */
#include "engine/core/certs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAY 86400

static char certs_dir[PATH_MAX - 64]; /* what all tests share */
static char own_dir[64];	      /* of this one */

/* ---- files ---- */

/* The tests run in the source tree or in a build directory below it. All programs of all build
 * directories share the certificates. */
static void make_certs(void)
{
	char command[2 * PATH_MAX], cwd[PATH_MAX / 2];
	char *slash;

	cr_assert_not_null(getcwd(cwd, sizeof(cwd)));
	for (;;) {
		snprintf(command, sizeof(command), "%s/tests/certs.sh", cwd);
		slash = strrchr(cwd, '/');
		if (access(command, R_OK) == 0 || !slash)
			break;
		*slash = 0;
	}
	snprintf(certs_dir, sizeof(certs_dir), "%s/build/test-certs", cwd);
	snprintf(command, sizeof(command), "mkdir -p '%s/build' && sh '%s/tests/certs.sh' '%s'",
		cwd, cwd, certs_dir);
	cr_assert_eq(system(command), 0, "%s", command);
}

static void set_up(void)
{
	struct tls_error e = {0};

	make_certs();
	strcpy(own_dir, "/tmp/test_material_XXXXXX");
	cr_assert_not_null(mkdtemp(own_dir));
	cr_assert_eq(chmod(own_dir, 0755), 0);
	cr_assert(tls_library_init(&e), "%s", e.text);
}

static void tear_down(void)
{
	char command[128];

	tls_library_fini();
	snprintf(command, sizeof(command), "rm -rf '%s'", own_dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(material, .init = set_up, .fini = tear_down);

/* A copy of one of the certificates' files under this test's own directory. */
static void put(const char *from, const char *to, unsigned mode)
{
	char command[2 * PATH_MAX], path[128];

	snprintf(path, sizeof(path), "%s/%s", own_dir, to);
	snprintf(command, sizeof(command), "cat '%s/%s' > '%s.new' && mv '%s.new' '%s'", certs_dir,
		from, path, path, path);
	cr_assert_eq(system(command), 0, "%s", command);
	cr_assert_eq(chmod(path, mode), 0);
}

/* ---- configurations: @ is the directory of all certificates, % that of the test ---- */

static struct conf *conf_of(const char *text)
{
	char *full = NULL, *said = NULL;
	size_t full_n = 0, said_n = 0;
	FILE *out = open_memstream(&full, &full_n), *err = open_memstream(&said, &said_n);
	struct conf *c;

	for (; *text != 0; text++) {
		if (*text == '@')
			fputs(certs_dir, out);
		else if (*text == '%')
			fputs(own_dir, out);
		else
			fputc(*text, out);
	}
	fclose(out);
	c = conf_load_text("t.yaml", full, full_n, err);
	fclose(err);
	cr_assert_not_null(c, "%s", said);
	free(full);
	free(said);
	return c;
}

/* What was told, a line each: "where whose name file-without-directory text". */
struct told {
	char text[8192];
	unsigned count;
};

static void note_told(void *arg, const struct material_note *n)
{
	struct told *t = arg;
	size_t at = strlen(t->text);
	const char *slash = n->file ? strrchr(n->file, '/') : NULL;

	t->count++;
	snprintf(t->text + at, sizeof(t->text) - at, "%s %s %s %s %s\n", n->where, n->whose,
		n->name, slash ? slash + 1 : "-", n->text);
}

static struct material *make(const struct conf *c, struct told *t)
{
	*t = (struct told){.count = 0};
	return material_new(c, NULL, NULL, &(struct material_teller){note_told, t});
}

static void expect_told(const struct told *t, const char *words)
{
	cr_expect_not_null(strstr(t->text, words), "no \"%s\" in\n%s", words, t->text);
}

#define GOOD                                                                                      \
	"certificates:\n"                                                                         \
	"  both: [{chain: @/ecdsa.pem, key: @/ecdsa.key}, {chain: @/rsa.pem, key: @/rsa.key}]\n"  \
	"  client: {chain: @/client.pem, key: @/client.key}\n"                                    \
	"listeners:\n"                                                                            \
	"  plain: {bind: 127.0.0.1:1, upstream: clear}\n"                                         \
	"  offer: {bind: 127.0.0.1:2, upstream: clear, starttls: {mode: offer, certificates: "    \
	"both,\n"                                                                                 \
	"    client-certificates: optional, client-ca: @/client-ca.pem}}\n"                       \
	"  pass: {bind: 127.0.0.1:3, upstream: clear, starttls: passthrough}\n"                   \
	"  smtps: {bind: 127.0.0.1:4, upstream: mta, starttls: {mode: implicit, certificates: "   \
	"both}}\n"                                                                                \
	"upstreams:\n"                                                                            \
	"  clear: {servers: 10.0.0.1:25}\n"                                                       \
	"  mta: {servers: 10.0.0.1:25, tls: {mode: verify, name: mx.example.org, ca: @/ca.pem,\n" \
	"    certificate: client}}\n"

Test(material, is_there_for_those_who_need_it)
{
	struct conf *c = conf_of(GOOD);
	struct told t;
	struct material *m = make(c, &t);

	cr_assert_not_null(m, "%s", t.text);
	cr_assert_eq(t.count, 0u, "%s", t.text);
	cr_assert(material_needed(c));
	cr_assert(m->tls->site_count == 4 && m->tls->policy_count == 2);
	cr_assert(m->tls->sites[0] == NULL && m->tls->sites[2] == NULL);
	cr_assert(m->tls->sites[1] != NULL && m->tls->sites[3] != NULL);
	cr_assert(m->tls->policies[0] == NULL && m->tls->policies[1] != NULL);
	cr_assert_eq(m->end_count, 3u);
	cr_assert_str_eq(m->ends[0].name, "both");
	cr_assert_str_eq(m->ends[2].name, "client");
	cr_assert_str_eq(strrchr(m->ends[1].file, '/'), "/rsa.pem");
	for (uint32_t i = 0; i < m->end_count; i++)
		cr_assert_gt(m->ends[i].at_s, (int64_t)time(NULL) + 3000 * DAY);
	material_free(m);
	conf_free(c);
}

Test(material, without_tls_is_empty)
{
	struct conf *c = conf_of("listeners: {in: {bind: 127.0.0.1:1, upstream: m}}\n"
				 "upstreams: {m: {servers: 10.0.0.1:25}}\n");
	struct told t;
	struct material *m = make(c, &t);

	cr_assert_not(material_needed(c));
	cr_assert(m->tls->sites[0] == NULL && m->tls->policies[0] == NULL && m->end_count == 0);
	material_free(m);
	conf_free(c);
}

Test(material, every_mistake_is_told_once_at_its_place)
{
	struct conf *c = conf_of(
		"certificates:\n"					/* 1 */
		"  missing: {chain: %/nowhere.pem, key: @/ecdsa.key}\n" /* 2 */
		"  nokey: {chain: @/ecdsa.pem, key: %/nowhere.key}\n"	/* 3 */
		"  crossed: [{chain: @/ecdsa.pem, key: @/ecdsa.key},\n" /* 4 */
		"    {chain: @/ecdsa.pem, key: @/rsa.key}]\n"		/* 5 */
		"  nonsense: {chain: %/nonsense, key: @/ecdsa.key}\n"	/* 6 */
		"  good: {chain: @/ecdsa.pem, key: @/ecdsa.key}\n"	/* 7 */
		"listeners:\n"						/* 8 */
		"  a: {bind: 127.0.0.1:1, upstream: m, starttls: {mode: offer, certificates: "
		"missing}}\n"
		"  b: {bind: 127.0.0.1:2, upstream: m, starttls: {mode: offer, certificates: "
		"missing}}\n"
		"  c: {bind: 127.0.0.1:3, upstream: n, starttls: {mode: require, certificates: "
		"nokey}}\n"
		"  d: {bind: 127.0.0.1:4, upstream: m, starttls: {mode: require, certificates: "
		"crossed}}\n"
		"  e: {bind: 127.0.0.1:5, upstream: m, starttls: {mode: require, certificates: "
		"nonsense}}\n"
		"  f: {bind: 127.0.0.1:6, upstream: m, starttls: {mode: require, certificates: "
		"good,\n"
		"    client-certificates: optional, client-ca: %/nowhere-ca.pem}}\n"
		"  g: {bind: 127.0.0.1:7, upstream: m, starttls: {mode: require, certificates: "
		"good,\n"
		"    ciphers: NO-SUCH-CIPHER}}\n"
		"upstreams:\n" /* 18 */
		"  m: {servers: 10.0.0.1:25, tls: {mode: require, ca: %/nowhere-ca.pem}}\n"
		"  n: {servers: 10.0.0.1:25, tls: {mode: require, certificate: missing}}\n");
	struct told t;
	FILE *f;
	char path[128];

	snprintf(path, sizeof(path), "%s/nonsense", own_dir);
	f = fopen(path, "w");
	fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", f);
	fclose(f);
	cr_assert_null(make(c, &t));
	expect_told(&t, "t.yaml:2:12 certificates missing nowhere.pem ");
	expect_told(&t, "t.yaml:3:10 certificates nokey nowhere.key ");
	expect_told(&t, "t.yaml:5:5 certificates crossed rsa.key ");
	expect_told(&t, "t.yaml:6:13 certificates nonsense nonsense ");
	expect_told(&t, "t.yaml:14:3 listener f nowhere-ca.pem ");
	expect_told(&t, "t.yaml:16:3 listener g - ");
	expect_told(&t, "t.yaml:19:3 upstream m nowhere-ca.pem ");
	cr_expect_eq(t.count, 7u, "%s", t.text);
	conf_free(c);
}

Test(material, is_printed_for_people)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	material_print(&(struct material_print){out, ""},
		&(struct material_note){"t.yaml:1:2", "certificates", "a", "/x.pem", "it is gone"});
	material_print(&(struct material_print){out, "warning: "},
		&(struct material_note){"t.yaml:3:4", "tls", "", NULL, "oh"});
	fclose(out);
	cr_assert_str_eq(text, "t.yaml:1:2: certificates `a`: /x.pem: it is gone\n"
			       "t.yaml:3:4: warning: tls: oh\n");
	free(text);
}

Test(material, references)
{
	struct tls_material *m = tls_material_new(2, 1);

	cr_assert(m->sites[1] == NULL && m->policies[0] == NULL && tls_material_alone(m));
	cr_assert_eq(tls_material_ref(m), m);
	cr_assert_not(tls_material_alone(m));
	tls_material_unref(m);
	cr_assert(tls_material_alone(m));
	tls_material_unref(m);
	tls_material_unref(NULL);
	tls_material_unref(tls_material_new(0, 0));
}

/* ---- ticket keys ---- */

#define WITH_TICKETS(x)                                                   \
	"tls: " x "\nlisteners: {in: {bind: 127.0.0.1:1, upstream: m}}\n" \
	"upstreams: {m: {servers: 10.0.0.1:25}}\n"

static bool keys_of(const char *text, struct tls_keys **keys, struct told *t)
{
	struct conf *c = conf_of(text);
	bool good;

	*t = (struct told){.count = 0};
	good = material_keys(c, keys, &(struct material_teller){note_told, t});
	conf_free(c);
	return good;
}

Test(material, ticket_keys)
{
	struct tls_keys *keys;
	struct told t;
	char path[128];
	FILE *f;

	cr_assert(keys_of(WITH_TICKETS("{ticket-rotate: 0}"), &keys, &t) && keys == NULL);
	cr_assert(keys_of(WITH_TICKETS("{ticket-rotate: 1ms}"), &keys, &t) && keys != NULL);
	tls_keys_free(keys);
	cr_assert_not(keys_of(WITH_TICKETS("{ticket-keys: %/none}"), &keys, &t));
	expect_told(&t, "t.yaml:1:1 tls  none ");
	snprintf(path, sizeof(path), "%s/short", own_dir);
	f = fopen(path, "w");
	fputs("too short", f);
	fclose(f);
	cr_assert_not(keys_of(WITH_TICKETS("{ticket-keys: %/short}"), &keys, &t));
	expect_told(&t, "t.yaml:1:1 tls  short ");
	cr_assert(keys == NULL && t.count == 1);
}

/* ---- worries ---- */

#define ONE                                                                                       \
	"certificates:\n  one: {chain: %/c.pem, key: %/c.key}\n"                                  \
	"listeners: {in: {bind: 127.0.0.1:1, upstream: m, starttls: {mode: offer, certificates: " \
	"one}}}\n"                                                                                \
	"upstreams: {m: {servers: 10.0.0.1:25, tls: {mode: require, ca: %/ca.pem}}}\n"

static struct told worries(const struct conf *c)
{
	struct told t = {.count = 0};

	material_worries(c, &(struct material_teller){note_told, &t});
	return t;
}

Test(material, keys_that_everybody_reads_are_a_worry)
{
	struct conf *c = conf_of(ONE);
	struct told t;

	put("ecdsa.pem", "c.pem", 0644);
	put("ecdsa.key", "c.key", 0640);
	put("ca.pem", "ca.pem", 0644);
	cr_assert_eq(worries(c).count, 0u);
	put("ecdsa.key", "c.key", 0644);
	t = worries(c);
	expect_told(&t, "t.yaml:2:8 certificates one c.key everybody on this machine can read");
	cr_assert_eq(t.count, 1u, "%s", t.text);
	conf_free(c);
}

Test(material, files_that_a_reload_could_not_read_are_a_worry)
{
	struct conf *c = conf_of(ONE);
	bool root = geteuid() == 0;
	struct told t;

	put("ecdsa.pem", "c.pem", 0644);
	put("ecdsa.key", "c.key", 0000);
	put("ca.pem", "ca.pem", 0000);
	/* What access(2) asks about; the rest of the test needs the others. */
	if (root)
		cr_assert_eq(setresuid(65534, (uid_t)-1, (uid_t)-1), 0);
	t = worries(c);
	if (root)
		cr_assert_eq(setresuid(0, (uid_t)-1, (uid_t)-1), 0);
	expect_told(
		&t, "t.yaml:2:8 certificates one c.key this process cannot read it (Permission");
	expect_told(&t, "t.yaml:4:13 upstream m ca.pem this process cannot read it");
	cr_assert_eq(t.count, 2u, "%s", t.text);
	conf_free(c);
}

/* ---- ends ---- */

static uint32_t expiring(
	const struct material *m, const struct conf *c, int64_t now, int64_t before, struct told *t)
{
	*t = (struct told){.count = 0};
	return material_expiring(m, c, now, before, &(struct material_teller){note_told, t});
}

Test(material, tells_of_what_expires_once_a_day)
{
	struct conf *c = conf_of("certificates:\n  a: {chain: @/ecdsa.pem, key: @/ecdsa.key}\n"
				 "  old: {chain: @/expired.pem, key: @/expired.key}\n"
				 "tls: {expiry-warning: 10d}\n"
				 "listeners: {in: {bind: 127.0.0.1:1, upstream: m, starttls: "
				 "{mode: offer, certificates: a}},\n"
				 "  two: {bind: 127.0.0.1:2, upstream: m, starttls: {mode: offer, "
				 "certificates: old}}}\n"
				 "upstreams: {m: {servers: 10.0.0.1:25}}\n");
	struct told t;
	struct material *m = make(c, &t);
	const int64_t feb_2020 = 1580515200; /* when expired.pem ended: 2020-02-01 */
	int64_t end;

	cr_assert_not_null(m, "%s", t.text);
	end = m->ends[0].at_s;
	cr_assert_eq(m->ends[1].at_s, feb_2020);
	/* long before both */
	cr_assert_eq(expiring(m, c, feb_2020 - 11 * DAY, 0, &t), 0u);
	cr_assert_eq(t.count, 0u);
	/* within the time: told at first, then when a day is over */
	cr_assert_eq(expiring(m, c, feb_2020 - 9 * DAY, 0, &t), 1u);
	expect_told(&t, "t.yaml:3:8 certificates old expired.pem expires in 9 days "
			"(2020-02-01T00:00:00Z)");
	cr_assert_eq(expiring(m, c, feb_2020 - 9 * DAY + 3600, feb_2020 - 9 * DAY + 1, &t), 1u);
	cr_assert_eq(t.count, 0u, "%s", t.text);
	cr_assert_eq(expiring(m, c, feb_2020 - 9 * DAY + 1, feb_2020 - 9 * DAY, &t), 1u);
	expect_told(&t, "expires in 8 days");
	/* when the time begins, though the number of days is the same */
	cr_assert_eq(expiring(m, c, feb_2020 - 10 * DAY, feb_2020 - 10 * DAY - 1, &t), 1u);
	expect_told(&t, "expires in 10 days");
	cr_assert_eq(expiring(m, c, feb_2020 - DAY - 5, feb_2020 - 2 * DAY - 5, &t), 1u);
	expect_told(&t, "expires in 1 day (");
	/* when it ends, and each day after */
	cr_assert_eq(expiring(m, c, feb_2020 + 1, feb_2020 - 1, &t), 1u);
	expect_told(&t, "has expired (2020-02-01T00:00:00Z)");
	cr_assert_eq(expiring(m, c, feb_2020 + 3600, feb_2020 + 1, &t), 1u);
	cr_assert_eq(t.count, 0u, "%s", t.text);
	cr_assert_eq(expiring(m, c, feb_2020 + DAY + 1, feb_2020 + 3600, &t), 1u);
	cr_assert_eq(t.count, 1u);
	/* both */
	cr_assert_eq(expiring(m, c, end - DAY, 0, &t), 2u);
	cr_assert_eq(t.count, 2u, "%s", t.text);
	material_free(m);
	conf_free(c);
}

Test(material, lists_its_certificates)
{
	struct conf *c = conf_of(GOOD);
	struct told t;
	struct material *m = make(c, &t);
	char *text = NULL, want[PATH_MAX + 64];
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	material_list(m, m->ends[0].at_s - 30 * DAY, out);
	fclose(out);
	snprintf(want, sizeof(want), "%s/ecdsa.pem: expires in 30 days (20", certs_dir);
	cr_assert_eq(strncmp(text, want, strlen(want)), 0, "%s", text);
	cr_assert_not_null(strstr(text, "/client.pem: expires in"), "%s", text);
	free(text);
	material_free(m);
	conf_free(c);
}

/* ---- a running process ---- */

#define LOGGED "log: {to: \"file:%/log\"}\n"

struct running {
	struct certs certs;
	struct conf *conf;
	struct log_buf *log;
	struct log_sink *sink;
	struct stat_table stats;
};

static void start(struct running *r, const char *text)
{
	*r = (struct running){.conf = conf_of(text)};
	cr_assert(certs_open(&r->certs, r->conf, stderr));
	r->log = log_buf_new(1 << 16, &r->conf->log);
	r->sink = log_sink_open(&r->conf->log, stderr);
	certs_begin(&r->certs, r->log, &r->stats);
}

static void stop(struct running *r)
{
	certs_close(&r->certs);
	log_sink_close(r->sink);
	log_buf_free(r->log);
	conf_free(r->conf);
}

/* Does the log so far hold a line with both? */
static bool logged(struct running *r, const char *one, const char *two)
{
	char path[128], line[8192];
	bool found = false;
	FILE *f;

	log_sink_drain(r->sink, r->log);
	snprintf(path, sizeof(path), "%s/log", own_dir);
	f = fopen(path, "r");
	cr_assert_not_null(f);
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, one) && strstr(line, two);
	fclose(f);
	return found;
}

static void put_good(void)
{
	put("ecdsa.pem", "c.pem", 0644);
	put("ecdsa.key", "c.key", 0600);
	put("ca.pem", "ca.pem", 0644);
}

Test(material, renewed_and_the_old_is_kept_while_somebody_has_it)
{
	struct running r;
	struct tls_material *first, *second;

	put_good();
	start(&r, LOGGED ONE);
	first = tls_material_ref(certs_current(&r.certs)); /* a worker's */
	put("rsa.pem", "c.pem", 0644);
	put("rsa.key", "c.key", 0600);
	cr_assert(certs_renew(&r.certs));
	second = certs_current(&r.certs);
	cr_assert(first != second && first->sites[0] != second->sites[0]);
	cr_assert_eq(r.stats.certificates_reloaded, 1u);
	cr_assert(logged(&r, "\"ev\":\"note\"", "HUP: certificates, keys and CAs have been read"));
	certs_turn(&r.certs);
	cr_assert_not_null(r.certs.old);
	tls_material_unref(first);
	certs_turn(&r.certs);
	cr_assert_null(r.certs.old);
	cr_assert(certs_renew(&r.certs) && certs_renew(&r.certs));
	stop(&r);
}

Test(material, a_bad_file_leaves_the_old)
{
	struct running r;
	struct tls_material *first;

	put_good();
	start(&r, LOGGED ONE);
	first = certs_current(&r.certs);
	put("rsa.pem", "c.pem", 0644); /* and still the other key */
	cr_assert_not(certs_renew(&r.certs));
	cr_assert_eq(certs_current(&r.certs), first);
	cr_assert(r.certs.old == NULL && r.stats.certificate_reload_failures == 1);
	cr_assert_eq(r.stats.certificates_reloaded, 0u);
	cr_assert(logged(&r, "c.key", "\"certificates\":\"one\",\"where\":\"t.yaml:3:8\""));
	cr_assert(logged(&r, "\"ev\":\"warning\"", "HUP: certificates, keys and CAs stay as they"));
	put("rsa.key", "c.key", 0600);
	cr_assert(certs_renew(&r.certs));
	cr_assert(r.stats.certificate_reload_failures == 1 && r.stats.certificates_reloaded == 1);
	stop(&r);
}

Test(material, what_expires_is_counted_and_logged)
{
	struct running r;

	put("expired.pem", "c.pem", 0644);
	put("expired.key", "c.key", 0644);
	put("ca.pem", "ca.pem", 0644);
	start(&r, LOGGED ONE);
	cr_assert_eq(r.stats.certificates_expiring_now, 1u);
	cr_assert(logged(&r, "c.pem", "has expired (2020-02-01T00:00:00Z)"));
	cr_assert(logged(&r, "c.key", "everybody on this machine can read this key"));
	/* looked at again when an hour is over, or the clock was set back */
	r.stats.certificates_expiring_now = 7;
	certs_turn(&r.certs);
	cr_assert_eq(r.stats.certificates_expiring_now, 7u);
	r.certs.watched_s -= 3600;
	certs_turn(&r.certs);
	cr_assert_eq(r.stats.certificates_expiring_now, 1u);
	r.stats.certificates_expiring_now = 7;
	r.certs.watched_s += 100;
	certs_turn(&r.certs);
	cr_assert_eq(r.stats.certificates_expiring_now, 1u);
	put_good();
	cr_assert(certs_renew(&r.certs));
	cr_assert_eq(r.stats.certificates_expiring_now, 0u);
	stop(&r);
}

Test(material, without_certificates_there_is_nothing_to_renew)
{
	struct running r;

	start(&r, LOGGED "listeners: {in: {bind: 127.0.0.1:1, upstream: m}}\n"
			 "upstreams: {m: {servers: 10.0.0.1:25}}\n");
	cr_assert_not(certs_renew(&r.certs));
	cr_assert(logged(&r, "\"ev\":\"warning\"", "HUP: there are no certificates"));
	cr_assert_eq(r.stats.certificate_reload_failures, 0u);
	stop(&r);
}

Test(material, the_key_log_is_told_of)
{
	struct running r;
	struct stat st;
	char path[128];

	put_good();
	start(&r, LOGGED "tls: {key-log: %/keys}\n" ONE);
	cr_assert(logged(&r, "\"ev\":\"warning\"", "tls.key-log: whoever has that file"));
	snprintf(path, sizeof(path), "%s/keys", own_dir);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	stop(&r);
}

Test(material, nothing_is_open_where_the_key_log_cannot_be)
{
	struct conf *c = conf_of("tls: {key-log: %/no/such/dir}\n" ONE);
	struct certs s;
	char *said = NULL;
	size_t n = 0;
	FILE *err = open_memstream(&said, &n);

	cr_assert_not(certs_open(&s, c, err));
	certs_close(&s);
	fclose(err);
	/* The certificate, which is not there either, is told as well. */
	cr_assert_not_null(strstr(said, "t.yaml:1:1: tls: "), "%s", said);
	cr_assert_not_null(strstr(said, "/no/such/dir: "), "%s", said);
	cr_assert_not_null(strstr(said, "t.yaml:3:8: certificates `one`: "), "%s", said);
	free(said);
	conf_free(c);
}

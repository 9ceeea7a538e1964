/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See certs.h. What a HUP replaces is kept until every worker has let go, and freed here: that may
 * take milliseconds, which no worker should lose. Connections keep what they began with by
 * references of their own.
 *
 * The ring of ticket keys and the key log stay the same for the life of the process: connections
 * refer to them.
 *
 * Failure modes: at the start a bad file ends it all (78); at HUP it leaves everything as it was,
 * counted and told with its place.
 */
#include "engine/core/certs.h"

#include <time.h>

#define WATCH_S 3600

static int64_t wall_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec;
}

/* ---- records ---- */

static bool begin(struct certs *s, struct log_rec *rec, enum log_event ev)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return log_begin(
		rec, s->log, ev, (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000);
}

static void say(struct certs *s, enum log_event ev, const char *what)
{
	struct log_rec rec;

	if (!begin(s, &rec, ev))
		return;
	log_cstr(&rec, "note", what);
	log_end(&rec, s->stats);
}

static void tell_log(void *arg, const struct material_note *n)
{
	struct certs *s = arg;
	struct log_rec rec;

	if (!begin(s, &rec, LOG_EV_WARNING))
		return;
	log_cstr(&rec, "note", n->text);
	log_cstr(&rec, "file", n->file);
	log_cstr(&rec, n->whose, n->name[0] != 0 ? n->name : NULL);
	log_cstr(&rec, "where", n->where);
	log_end(&rec, s->stats);
}

static struct material_teller to_log(struct certs *s)
{
	return (struct material_teller){tell_log, s};
}

/* ---- the start ---- */

static bool open_keylog(struct certs *s, const struct material_teller *t)
{
	struct tls_error e = {0};

	if (!s->conf->tls.key_log)
		return true;
	s->keylog = tls_keylog_open(s->conf->tls.key_log, &e);
	if (!s->keylog)
		t->tell(t->arg, &(struct material_note){s->conf->tls.where, "tls", "",
					s->conf->tls.key_log, e.text});
	return s->keylog != NULL;
}

bool certs_open(struct certs *s, const struct conf *c, FILE *err)
{
	struct material_print print = {err, ""};
	struct material_teller t = {material_print, &print};
	bool good;

	*s = (struct certs){.conf = c};
	good = material_keys(c, &s->keys, &t);
	good &= open_keylog(s, &t);
	s->now = material_new(c, s->keys, s->keylog, &t);
	return good && s->now;
}

struct tls_material *certs_current(const struct certs *s)
{
	return s->now->tls;
}

/* ---- what expires ---- */

static void watch(struct certs *s, int64_t before_s)
{
	struct material_teller t = to_log(s);

	s->watched_s = wall_s();
	STAT_SET(s->stats, certificates_expiring_now,
		material_expiring(s->now, s->conf, s->watched_s, before_s, &t));
}

void certs_begin(struct certs *s, struct log_buf *log, struct stat_table *stats)
{
	struct material_teller t = to_log(s);

	s->log = log;
	s->stats = stats;
	if (s->keylog)
		say(s, LOG_EV_WARNING,
			"tls.key-log: whoever has that file can read all TLS that is captured");
	material_worries(s->conf, &t);
	watch(s, 0);
}

/* ---- HUP ---- */

static void retire(struct certs *s)
{
	s->now->next = s->old;
	s->old = s->now;
}

bool certs_renew(struct certs *s)
{
	struct material_teller t = to_log(s);
	struct material *m;

	if (conf_changed(s->conf))
		say(s, LOG_EV_WARNING,
			"HUP: the configuration file has changed: that is read at start only; "
			"restart to have it");
	if (!material_needed(s->conf)) {
		say(s, LOG_EV_WARNING,
			"HUP: there are no certificates and no CAs to read anew, and the "
			"configuration is read at start only");
		return false;
	}
	m = material_new(s->conf, s->keys, s->keylog, &t);
	if (!m) {
		STAT_INC(s->stats, certificate_reload_failures);
		say(s, LOG_EV_WARNING,
			"HUP: certificates, keys and CAs stay as they were: see the warnings "
			"before this one");
		return false;
	}
	retire(s);
	s->now = m;
	STAT_INC(s->stats, certificates_reloaded);
	say(s, LOG_EV_NOTE,
		"HUP: certificates, keys and CAs have been read anew; the rest of the "
		"configuration is as it was");
	watch(s, 0);
	return true;
}

static void release_old(struct certs *s)
{
	struct material **at = &s->old;

	while (*at) {
		struct material *m = *at;

		if (!tls_material_alone(m->tls)) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		material_free(m);
	}
}

void certs_turn(struct certs *s)
{
	int64_t now = wall_s();

	if (s->keys)
		tls_keys_tick(s->keys, (uint64_t)now);
	/* Also when the clock was set back. */
	if (now >= s->watched_s + WATCH_S || now < s->watched_s)
		watch(s, s->watched_s);
	release_old(s);
}

void certs_close(struct certs *s)
{
	release_old(s);
	ASSERT(!s->old);
	material_free(s->now);
	if (s->keys)
		tls_keys_free(s->keys);
	tls_keylog_close(s->keylog);
}

/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dropping privileges: see privileges.h. Root without `user:` stays root, and is told so: the
 * operator may be in a container that has nothing else.
 */
#include "engine/core/privileges.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void harden(void)
{
	struct rlimit none = {0, 0};

	/* Mail and AUTH exchanges pass through memory: no dumps, no attaching. */
	(void)setrlimit(RLIMIT_CORE, &none);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static bool become(const struct passwd *pw, FILE *err)
{
	if (initgroups(pw->pw_name, pw->pw_gid) != 0 ||
		setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) != 0 ||
		setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) != 0) {
		fprintf(err, "ringpost: cannot become user %s: %s\n", pw->pw_name, strerror(errno));
		return false;
	}
	if (pw->pw_uid != 0 && setuid(0) == 0) {
		fprintf(err, "ringpost: could become root again; refusing to run\n");
		return false;
	}
	return true;
}

bool privileges_drop(const char *user, FILE *err)
{
	if (user && geteuid() == 0) {
		const struct passwd *pw = getpwnam(user);

		if (!pw) {
			fprintf(err, "ringpost: no such user: %s\n", user);
			return false;
		}
		if (!become(pw, err))
			return false;
	}
	harden();
	return true;
}

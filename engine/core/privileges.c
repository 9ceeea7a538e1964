/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dropping privileges: see privileges.h. Root without `user:` stays root (control notes it in the
 * log): the operator may be in a container that has nothing else. Anybody else loses all
 * capabilities, also those that came by file or ambient set to bind a low port.
 */
#include "engine/core/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void privileges_no_dumps(void)
{
	struct rlimit none = {0, 0};

	(void)setrlimit(RLIMIT_CORE, &none);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static void harden(void)
{
	/* Again: the kernel has forgotten it with the change of user. */
	privileges_no_dumps();
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static bool drop_capabilities(FILE *err)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

	if (geteuid() == 0)
		return true;
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &head, none) == 0)
		return true;
	fprintf(err, "ringpost: cannot give up capabilities: %s\n", strerror(errno));
	return false;
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

bool privileges_own(const char *user, const char *path, FILE *err)
{
	const struct passwd *pw;
	struct stat st;

	if (!user || !path || geteuid() != 0)
		return true;
	/* A pipe or a device stays whose it is. */
	if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return true;
	pw = getpwnam(user);
	/* Follows no link: what is given away must be the file that was opened. */
	if (pw && fchownat(AT_FDCWD, path, pw->pw_uid, pw->pw_gid, AT_SYMLINK_NOFOLLOW) == 0)
		return true;
	fprintf(err, "ringpost: cannot give %s to %s: %s\n", path, user,
		pw ? strerror(errno) : "no such user");
	return false;
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
	if (!drop_capabilities(err))
		return false;
	harden();
	return true;
}

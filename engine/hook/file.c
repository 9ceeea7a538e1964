/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See file.h.
 */
#include "engine/hook/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_BYTES 4096

bool hook_file_no(char *why, size_t why_max, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, why_max, format, args);
	va_end(args);
	return false;
}

/* Where everybody may rename, a good file can be made to be another good file. */
static bool check_directory(const char *file, char *why, size_t why_max)
{
	const char *slash = strrchr(file, '/');
	char dir[DIR_BYTES] = ".";
	struct stat st;

	if (slash)
		snprintf(dir, sizeof(dir), "%.*s", (int)MAX_OF(1, slash - file), file);
	if (stat(dir, &st) != 0)
		return hook_file_no(why, why_max, "%s: %s", dir, strerror(errno));
	if ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX))
		return hook_file_no(why, why_max, "%s: everybody may write to this directory", dir);
	return true;
}

/* Of the name that was asked for, and of the one that symbolic links lead to. Without /proc (a bare
 * chroot) nobody can say the latter. */
static bool check_directories(int fd, const char *file, char *why, size_t why_max)
{
	char link[32], real[DIR_BYTES];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, real, sizeof(real) - 1);
	if (n > 0)
		real[n] = '\0';
	return check_directory(file, why, why_max) &&
	       (n <= 0 || check_directory(real, why, why_max));
}

static bool check_file(int fd, const char *file, const char *what, char *why, size_t why_max)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return hook_file_no(why, why_max, "%s: %s", file, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return hook_file_no(why, why_max, "%s: not a regular file", file);
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return hook_file_no(why, why_max,
			"%s: belongs to user %u; %s has to belong to root or to the account "
			"ringpost runs as",
			file, (unsigned)st.st_uid, what);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return hook_file_no(why, why_max,
			"%s: its group or others may write to it (mode %04o); only its owner may",
			file, (unsigned)(st.st_mode & 07777));
	return true;
}

int hook_file_open(const char *file, const char *what, char *why, size_t why_max)
{
	/* Without waiting for somebody at the other end of a pipe. */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0) {
		hook_file_no(why, why_max, "%s: %s", file, strerror(errno));
		return -1;
	}
	if (check_file(fd, file, what, why, why_max) && check_directories(fd, file, why, why_max))
		return fd;
	close(fd);
	return -1;
}

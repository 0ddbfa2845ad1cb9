/* SPDX-License-Identifier: MIT */
#include "mountpoint.h"

#include <dirent.h>
#include <errno.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

static int refuse(const char *path, int error, const char *why)
{
	fprintf(stderr, "mqfs: %s: %s\n", path, why);
	return -error;
}

void mountpoint_normalise(char *path)
{
	char *end = path;
	for (const char *from = path; *from;) {
		size_t slashes = strspn(from, "/"), bytes = strcspn(from + slashes, "/");
		from += slashes;
		if (bytes > 0 && !(bytes == 1 && from[0] == '.')) {
			*end++ = '/';
			memmove(end, from, bytes);
			end += bytes;
		}
		from += bytes;
	}
	if (end == path)
		*end++ = '/';
	*end = '\0';
}

/* The type of the last (topmost) mount at path: "fuse.mqfs", "autofs", … or "". */
static void mounted_type(const char *path, char *type, size_t bytes)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *entry;
	*type = '\0';
	if (!mounts)
		return;
	while ((entry = getmntent(mounts))) {
		if (strcmp(entry->mnt_dir, path) == 0)
			snprintf(type, bytes, "%s", entry->mnt_type);
	}
	endmntent(mounts);
}

static int run_fusermount(const char *path)
{
	pid_t pid = fork();
	int status;
	if (pid == 0) {
		execlp("fusermount3", "fusermount3", "-u", "-z", "-q", "--", path, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int mountpoint_detach(const char *path)
{
	if (umount2(path, MNT_DETACH) == 0)
		return 0;
	int error = errno;
	return error == EPERM ? run_fusermount(path) : -error;
}

static bool is_empty(const char *path, int *ret_error)
{
	DIR *dir = opendir(path);
	int entries = 0;
	*ret_error = dir ? 0 : errno;
	while (dir && entries <= 2 && readdir(dir))
		entries++;
	if (dir)
		closedir(dir);
	return entries <= 2;
}

static int clear_stale(const char *path)
{
	char type[64];
	struct statvfs st;
	/* Not stat(2), which the kernel answers from memory for a second after the death of a mount. */
	if (statvfs(path, &st) == 0 || (errno != ENOTCONN && errno != ECONNABORTED))
		return 0;
	mounted_type(path, type, sizeof(type));
	if (strcmp(type, "fuse.mqfs") != 0)
		return refuse(path, ENOTCONN, "there is a dead mount of something else: unmount it first");
	int result = mountpoint_detach(path);
	return result < 0 ? refuse(path, -result, "a stale mount can't be unmounted") : 0;
}

int mountpoint_prepare(const char *path)
{
	char type[64];
	struct stat st;
	int error;
	mounted_type(path, type, sizeof(type));
	if (strcmp(type, "autofs") == 0)
		return 0;
	int result = clear_stale(path);
	if (result < 0)
		return result;
	if (stat(path, &st) < 0)
		return refuse(path, errno, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return refuse(path, ENOTDIR, strerror(ENOTDIR));
	mounted_type(path, type, sizeof(type));
	if (strcmp(type, "fuse.mqfs") == 0)
		return refuse(path, EBUSY, "mqfs is mounted there already");
	bool empty = is_empty(path, &error);
	if (error)
		return refuse(path, error, strerror(error));
	return empty ? 0 : refuse(path, ENOTEMPTY, "the directory is not empty");
}

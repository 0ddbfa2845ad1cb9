/* SPDX-License-Identifier: MIT */
/*
 * sickdisk BACKING MOUNTPOINT FAULT: the directory BACKING once more at MOUNTPOINT, as a disk that falls ill. While the
 * file FAULT holds a number, everything that changes something fails with that errno: ENOSPC for a full disk, EROFS for
 * one that the kernel has made read-only, EIO for a broken one. While it holds -1, that answers nothing, and as there
 * is one thread, nor does anything that comes after it. Unlike a small tmpfs it needs no root, and unlike a real
 * read-only disk it can become well again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <fuse.h>

static int backing = -1;
static const char *fault_path;

static int read_fault(void)
{
	char text[16] = "";
	int fd = open(fault_path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);
	return atoi(text);
}

/* -errno while the disk is ill, else 0. */
static int fault(void)
{
	int number;

	while ((number = read_fault()) < 0)
		usleep(10000);
	return -number;
}

static const char *relative(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int outcome(int r)
{
	return r < 0 ? -errno : 0;
}

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	return outcome(fi ? fstat((int)fi->fh, st) : fstatat(backing, relative(path), st, AT_SYMLINK_NOFOLLOW));
}

static int disk_open(const char *path, struct fuse_file_info *fi)
{
	bool changes = (fi->flags & O_ACCMODE) != O_RDONLY;
	int fd, r = changes && fault() == -EROFS ? -EROFS : 0;

	if (r < 0)
		return r;
	fd = openat(backing, relative(path), fi->flags & ~O_CREAT);
	fi->fh = (uint64_t)fd;
	return outcome(fd);
}

static int disk_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	int fd, r = fault();

	if (r < 0)
		return r;
	fd = openat(backing, relative(path), fi->flags | O_CREAT, mode);
	fi->fh = (uint64_t)fd;
	return outcome(fd);
}

static int disk_read(const char *path, char *buffer, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
	ssize_t count = pread((int)fi->fh, buffer, bytes, offset);

	(void)path;
	return count < 0 ? -errno : (int)count;
}

/* The index of SQLite's log is memory that happens to have a name: no disk's illness reaches it. */
static bool is_memory(const char *path)
{
	size_t length = strlen(path);

	return length > 4 && strcmp(path + length - 4, "-shm") == 0;
}

static int disk_write(const char *path, const char *data, size_t bytes, off_t offset, struct fuse_file_info *fi)
{
	int r = is_memory(path) ? 0 : fault();
	ssize_t count;

	if (r < 0)
		return r;
	count = pwrite((int)fi->fh, data, bytes, offset);
	return count < 0 ? -errno : (int)count;
}

static int disk_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	int r = is_memory(path) ? 0 : fault(), fd;

	if (r < 0 || fi)
		return r < 0 ? r : outcome(ftruncate((int)fi->fh, size));
	fd = openat(backing, relative(path), O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = outcome(ftruncate(fd, size));
	close(fd);
	return r;
}

/* What was written before is safe on a disk that is full or read-only. */
static int disk_fsync(const char *path, int only_data, struct fuse_file_info *fi)
{
	(void)path, (void)only_data, (void)fi;
	return fault() == -EIO ? -EIO : 0;
}

static int disk_release(const char *path, struct fuse_file_info *fi)
{
	(void)path;
	return outcome(close((int)fi->fh));
}

static int disk_unlink(const char *path)
{
	int r = fault() == -ENOSPC ? 0 : fault();

	return r < 0 ? r : outcome(unlinkat(backing, relative(path), 0));
}

static int disk_mkdir(const char *path, mode_t mode)
{
	int r = fault();

	return r < 0 ? r : outcome(mkdirat(backing, relative(path), mode));
}

static int disk_rename(const char *from, const char *to, unsigned flags)
{
	int r = fault();

	return r < 0 ? r : outcome(renameat2(backing, relative(from), backing, relative(to), flags));
}

static int disk_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	int r = fault();

	(void)fi;
	return r < 0 ? r : outcome(fchmodat(backing, relative(path), mode, 0));
}

static int disk_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
                        enum fuse_readdir_flags flags)
{
	int fd = openat(backing, relative(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	(void)offset, (void)fi, (void)flags;
	if (!dir)
		return -errno;
	while ((entry = readdir(dir)))
		fill(buffer, entry->d_name, NULL, 0, 0);
	closedir(dir);
	return 0;
}

static int disk_statfs(const char *path, struct statvfs *st)
{
	(void)path;
	return outcome(fstatvfs(backing, st));
}

static const struct fuse_operations operations = {
    .getattr = disk_getattr,
    .open = disk_open,
    .create = disk_create,
    .read = disk_read,
    .write = disk_write,
    .truncate = disk_truncate,
    .fsync = disk_fsync,
    .release = disk_release,
    .unlink = disk_unlink,
    .mkdir = disk_mkdir,
    .rename = disk_rename,
    .chmod = disk_chmod,
    .readdir = disk_readdir,
    .statfs = disk_statfs,
};

int main(int argc, char **argv)
{
	char *words[] = {argv[0], "-f", "-s", argc > 2 ? argv[2] : "", NULL};

	if (argc != 4) {
		fprintf(stderr, "usage: sickdisk BACKING MOUNTPOINT FAULT\n");
		return EXIT_FAILURE;
	}
	fault_path = argv[3];
	backing = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (backing < 0) {
		perror(argv[1]);
		return EXIT_FAILURE;
	}
	return fuse_main(4, words, &operations, NULL);
}

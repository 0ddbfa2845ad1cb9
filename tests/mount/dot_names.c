/* SPDX-License-Identifier: MIT */
/*
 * For LD_PRELOAD: stress-ng makes a directory of its own and ordinary files in it, but in new/ there are no
 * directories, and ordinary are the names with a leading dot. So DIR/tmp-stress-ng-.../NAME becomes DIR/.NAME, and
 * the directory itself is DIR: making and removing it does nothing.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TEMPORARY "/tmp-stress-ng-"

/* Is it the directory itself, or in it? buffer gets the path that is meant, else path is as it is. */
static const char *moved(const char *path, char *buffer, bool *ret_directory)
{
	const char *start = path ? strstr(path, TEMPORARY) : NULL;
	*ret_directory = false;
	if (!start)
		return path;
	const char *name = strchr(start + 1, '/');
	*ret_directory = !name || name[1] == '\0';
	if (*ret_directory)
		snprintf(buffer, PATH_MAX, "%.*s", (int)(start - path), path);
	else
		snprintf(buffer, PATH_MAX, "%.*s/.%s", (int)(start - path), path, name + 1);
	return buffer;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A call whose first argument is a path; `directory`: what it gives for the directory itself, or ASK. */
#define ASK -2
#define ON_PATH(result, name, directory, parameters, ...)                                                              \
	result name parameters                                                                                         \
	{                                                                                                              \
		char buffer[PATH_MAX];                                                                                 \
		bool is_directory;                                                                                     \
		path = moved(path, buffer, &is_directory);                                                             \
		if (is_directory && (intptr_t)(directory) != ASK)                                                      \
			return directory;                                                                              \
		return NEXT(name)(__VA_ARGS__);                                                                        \
	}

#define OPENING(name)                                                                                                  \
	int name(const char *path, int flags, ...)                                                                     \
	{                                                                                                              \
		char buffer[PATH_MAX];                                                                                 \
		bool is_directory;                                                                                     \
		va_list arguments;                                                                                     \
		va_start(arguments, flags);                                                                            \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;                           \
		va_end(arguments);                                                                                     \
		return NEXT(name)(moved(path, buffer, &is_directory), flags, mode);                                    \
	}

OPENING(open)
OPENING(open64)
ON_PATH(int, mkdir, 0, (const char *path, mode_t mode), path, mode)
ON_PATH(int, rmdir, 0, (const char *path), path)
ON_PATH(int, creat64, ASK, (const char *path, mode_t mode), path, mode)
ON_PATH(int, unlink, ASK, (const char *path), path)
ON_PATH(int, access, ASK, (const char *path, int mode), path, mode)
ON_PATH(int, chmod, ASK, (const char *path, mode_t mode), path, mode)
ON_PATH(int, truncate64, ASK, (const char *path, off64_t size), path, size)
ON_PATH(int, stat64, ASK, (const char *path, struct stat64 *st), path, st)
ON_PATH(int, lstat64, ASK, (const char *path, struct stat64 *st), path, st)
ON_PATH(int, statvfs64, ASK, (const char *path, struct statvfs64 *st), path, st)
ON_PATH(FILE *, fopen64, NULL, (const char *path, const char *mode), path, mode)

int rename(const char *from, const char *to)
{
	char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
	bool is_directory;
	from = moved(from, from_buffer, &is_directory);
	return NEXT(rename)(from, moved(to, to_buffer, &is_directory));
}

int openat64(int at, const char *path, int flags, ...)
{
	char buffer[PATH_MAX];
	bool is_directory;
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	return NEXT(openat64)(at, moved(path, buffer, &is_directory), flags, mode);
}

int faccessat(int at, const char *path, int mode, int flags)
{
	char buffer[PATH_MAX];
	bool is_directory;
	return NEXT(faccessat)(at, moved(path, buffer, &is_directory), mode, flags);
}

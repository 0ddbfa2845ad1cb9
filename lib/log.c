/* SPDX-License-Identifier: MIT */
#include <mqfs/log.h>

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_BYTES 2048

static atomic_int current_level = MQFS_LOG_INFO;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_journal;
static atomic_bool to_syslog;

void mqfs_log_set_level(enum mqfs_log_level level)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum mqfs_log_level mqfs_log_level(void)
{
	return (enum mqfs_log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

void mqfs_log_to_syslog(void)
{
	openlog("mqfs", LOG_PID, LOG_DAEMON);
	atomic_store(&to_syslog, true);
}

/* systemd.exec(5): JOURNAL_STREAM names device and inode of the journal's socket, and has to be compared
 * since the variable is inherited by children whose standard error goes elsewhere. */
static void find_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0)
		is_journal = st.st_dev == device && st.st_ino == inode;
}

/* What a stranger named can't forge a second line or move the cursor. */
static void flatten(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

static size_t clamp(int length, size_t room)
{
	if (length < 0)
		return 0;
	return (size_t)length < room ? (size_t)length : room - 1;
}

void mqfs_log(enum mqfs_log_level level, const char *topic, const char *format, ...)
{
	int saved_errno = errno;
	char line[LINE_BYTES];
	size_t length = 0, text;
	va_list arguments;

	if (level > mqfs_log_level())
		return;
	pthread_once(&once, find_journal);
	if (is_journal)
		length = clamp(snprintf(line, sizeof(line), "<%d>", (int)level), sizeof(line));
	text = length;
	length += clamp(snprintf(line + length, sizeof(line) - length, "%s: ", topic), sizeof(line) - length);
	va_start(arguments, format);
	errno = saved_errno; /* for %m */
	length += clamp(vsnprintf(line + length, sizeof(line) - length, format, arguments), sizeof(line) - length);
	va_end(arguments);
	flatten(line + text);
	if (atomic_load_explicit(&to_syslog, memory_order_relaxed)) {
		syslog((int)level, "%s", line + text);
		errno = saved_errno;
		return;
	}
	line[length++] = '\n'; /* in the place of the NUL */
	/* One write, so that the lines of several threads don't mix; nobody is left to tell when it fails. */
	if (write(STDERR_FILENO, line, length) < 0)
		length = 0;
	errno = saved_errno;
}

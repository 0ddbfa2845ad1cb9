/* SPDX-License-Identifier: MIT */
#include "proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proc_kept.h"

/* include/linux/sched.h; part of what /proc/PID/stat promises (proc(5), field 9). */
#define PF_EXITING 0x4UL
#define PF_SIGNALED 0x400UL

static ssize_t read_file(const char *path, char *buffer, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buffer, bytes - 1);
	int error = errno;
	close(fd);
	if (n < 0)
		return -error;
	buffer[n] = '\0';
	return n;
}

int proc_stat(pid_t pid, struct proc_stat *ret_stat)
{
	char path[32], text[1024];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (pid <= 0 || read_file(path, text, sizeof(text)) <= 0)
		return -ESRCH;

	/* The name may hold spaces and parentheses: the last ')' ends it (proc(5)). */
	char *open = strchr(text, '('), *close = strrchr(text, ')');
	if (!open || !close || close < open)
		return -ESRCH;
	snprintf(ret_stat->name, sizeof(ret_stat->name), "%.*s", (int)(close - open - 1), open + 1);

	int parent, exit_code;
	int found = sscanf(close + 2,
	                   "%c %d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu"
	                   " %*u %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d %*d %*u %*u %*u %*u %*d"
	                   " %*u %*u %*u %*u %*u %*u %*u %d",
	                   &ret_stat->state, &parent, &ret_stat->flags, &ret_stat->start, &exit_code);
	if (found < 4)
		return -ESRCH;
	ret_stat->parent = parent;
	ret_stat->exit_code = found == 5 ? exit_code : 0;
	return 0;
}

/* A hexadecimal mask, or a decimal number, of one line of /proc/PID/status. */
static bool status_field(const char *status, const char *field, int base, unsigned long long *ret_value)
{
	const char *line = strstr(status, field);
	if (!line)
		return false;
	*ret_value = strtoull(line + strlen(field), NULL, base);
	return true;
}

static ssize_t read_status(pid_t tid, char *text, size_t bytes)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	return read_file(path, text, bytes);
}

pid_t proc_ask_tgid(pid_t tid)
{
	/* pidfd_open(2) takes thread group leaders only, and costs a tenth of reading status. */
	int fd = tid > 0 ? (int)syscall(SYS_pidfd_open, tid, 0) : -1;
	if (fd >= 0) {
		close(fd);
		return tid;
	}
	char status[4096];
	unsigned long long tgid;
	if (tid <= 0 || read_status(tid, status, sizeof(status)) <= 0 || !status_field(status, "\nTgid:", 10, &tgid))
		return 0;
	return (pid_t)tgid;
}

pid_t proc_tgid(pid_t tid)
{
	struct proc_kept *kept = proc_kept_get(tid, NULL);
	pid_t tgid = kept ? kept->tgid : proc_ask_tgid(tid);
	proc_kept_put(kept);
	return tgid;
}

int proc_identify(pid_t tid, struct proc_identity *ret_identity)
{
	struct proc_stat stat;
	struct proc_kept *kept = proc_kept_get(tid, NULL);
	if (kept) {
		*ret_identity = (struct proc_identity){.pid = kept->tgid, .start = kept->start};
		memcpy(ret_identity->name, kept->name, sizeof(ret_identity->name));
		proc_kept_put(kept);
		return 0;
	}
	pid_t pid = proc_ask_tgid(tid);
	if (pid == 0 || proc_stat(pid, &stat) < 0)
		return -ESRCH;
	*ret_identity = (struct proc_identity){.pid = pid, .start = stat.start};
	memcpy(ret_identity->name, stat.name, sizeof(ret_identity->name));
	return 0;
}

bool proc_killed(pid_t tid, int *ret_signal)
{
	struct proc_stat stat;
	bool has_files = false;
	proc_kept_put(proc_kept_get(tid, &has_files));
	if (has_files)
		return false;
	if (proc_stat(tid, &stat) < 0)
		return false;
	unsigned long killed = PF_EXITING | PF_SIGNALED;
	if ((stat.flags & killed) != killed)
		return false;
	if (ret_signal)
		*ret_signal = stat.exit_code & 0x7f;
	return true;
}

bool proc_dying(pid_t tid)
{
	char status[4096];
	if (tid <= 0)
		return false;
	ssize_t bytes = read_status(tid, status, sizeof(status));
	if (bytes < 0)
		return bytes == -ENOENT || bytes == -ESRCH; /* it is gone already */
	unsigned long long own = 0, shared = 0, kill_bit = 1ULL << (SIGKILL - 1);
	status_field(status, "\nSigPnd:", 16, &own);
	status_field(status, "\nShdPnd:", 16, &shared);
	return (own | shared) & kill_bit;
}

/* Terminals and /dev/null are what most descriptors are, besides pipes and sockets. */
static bool may_be_ours(const char *target, ssize_t bytes)
{
	static const char *const devices[] = {"/dev/null", "/dev/pts/", "/dev/tty"};
	if (bytes < 1 || target[0] != '/') /* pipe:[…], socket:[…], anon_inode:… */
		return false;
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
		size_t length = strlen(devices[i]);
		if ((size_t)bytes >= length && memcmp(target, devices[i], length) == 0)
			return false;
	}
	return true;
}

/* fdinfo has had "ino:" since Linux 5.14; it asks the kernel, where stat() would ask this very daemon. */
static bool fd_is(int fds, const char *fd, const char *dir, uint64_t ino)
{
	char target[16], path[64], info[512];
	if (!may_be_ours(target, readlinkat(fds, fd, target, sizeof(target))))
		return false;
	snprintf(path, sizeof(path), "%sinfo/%.11s", dir, fd);
	if (read_file(path, info, sizeof(info)) <= 0)
		return false;
	unsigned long long found;
	return status_field(info, "\nino:", 10, &found) && found == ino;
}

/* Not readdir(3), whose buffer costs an mmap or a malloc each time: this runs for every close() of a draft. */
static int fds_hold(int fds, const char *path, uint64_t ino)
{
	_Alignas(struct dirent64) char entries[2048];
	ssize_t bytes;
	int holds = 0;
	while (!holds && (bytes = getdents64(fds, entries, sizeof(entries))) > 0) {
		for (ssize_t at = 0; !holds && at < bytes;) {
			const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
			holds = entry->d_name[0] != '.' && fd_is(fds, entry->d_name, path, ino);
			at += entry->d_reclen;
		}
	}
	return holds;
}

int proc_holds(pid_t pid, uint64_t ino)
{
	char path[32];
	int holds;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	struct proc_kept *kept = proc_kept_get(pid, NULL);
	if (kept) {
		holds = fds_hold(proc_kept_rewind_fds(kept), path, ino);
		proc_kept_end_fds(kept);
		proc_kept_put(kept);
		return holds;
	}
	int fds = pid > 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fds < 0)
		return pid > 0 ? -errno : -ESRCH;
	holds = fds_hold(fds, path, ino);
	close(fds);
	return holds;
}

static int loadavg = -1;

static void open_loadavg(void)
{
	loadavg = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
}

/* The last field of /proc/loadavg (proc(5)): an id that is given to threads, too. */
pid_t proc_newest(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	char text[128];
	pthread_once(&once, open_loadavg);
	ssize_t bytes = pread(loadavg, text, sizeof(text) - 1, 0);
	if (bytes <= 0)
		return 0;
	text[bytes] = '\0';
	const char *last = strrchr(text, ' ');
	return last ? (pid_t)strtol(last + 1, NULL, 10) : 0;
}

/* Ids are given in a circle. */
static bool is_between(pid_t pid, pid_t since, pid_t newest)
{
	if (since == 0 || newest == 0)
		return true;
	return since <= newest ? pid > since && pid <= newest : pid > since || pid <= newest;
}

int proc_each_since(pid_t since, int (*each)(pid_t pid, void *arg), void *arg)
{
	pid_t newest = proc_newest();
	if (since != 0 && since == newest)
		return 0;
	DIR *dir = opendir("/proc");
	if (!dir)
		return -errno;
	int result = 0;
	for (struct dirent *entry; result == 0 && (entry = readdir(dir));) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid > 0 && is_between(pid, since, newest))
			result = each(pid, arg);
	}
	closedir(dir);
	return result;
}

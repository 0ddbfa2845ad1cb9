/* SPDX-License-Identifier: MIT */
/*
 * A mount's life: prepare the directory, (fork,) connect, mount, serve, unmount, give back.
 *
 * The fork comes first, since threads do not survive one: the parent waits at a pipe for one byte, which says that the
 * mount answers. The workers are our own, few and fixed: each reads /dev/fuse and decodes; nothing that they do waits.
 */
#include "mount.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <mqfs/log.h>

#include "fs.h"
#include "housekeeping.h"
#include "mountpoint.h"
#include "notify.h"
#include "opened.h"
#include "ops.h"
#include "outbox.h"
#include "queue.h"
#include "root_dir.h"

#define LOG_TOPIC "mount"
#define WORKERS_MAX 64

struct worker {
	pthread_t thread;
	struct fuse_session *session;
	pthread_t main;
};

/* --- serving --- */

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct fuse_buf buffer = {.mem = NULL};
	while (!fuse_session_exited(worker->session)) {
		int result = fuse_session_receive_buf(worker->session, &buffer);
		if (result == -EINTR)
			continue;
		if (result <= 0)
			break; /* unmounted */
		fuse_session_process_buf(worker->session, &buffer);
	}
	free(buffer.mem);
	fuse_session_exit(worker->session);
	pthread_kill(worker->main, SIGUSR2);
	return NULL;
}

/* Wakes a worker from read(2): its handler does nothing, and the call is not restarted. */
static void wake_up(int signal)
{
	(void)signal;
}

static void handle_signals(sigset_t *waited)
{
	struct sigaction wake = {.sa_handler = wake_up};
	sigaction(SIGUSR1, &wake, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(waited);
	sigaddset(waited, SIGTERM);
	sigaddset(waited, SIGINT);
	sigaddset(waited, SIGHUP);
	sigaddset(waited, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, waited, NULL);
}

static void join_workers(struct worker *workers, size_t count)
{
	struct timespec moment;
	for (size_t i = 0; i < count; i++) {
		do {
			/* Again and again: a signal that comes just before read(2) wakes nobody. */
			pthread_kill(workers[i].thread, SIGUSR1);
			clock_gettime(CLOCK_REALTIME, &moment);
			moment.tv_nsec += 20 * 1000000;
			if (moment.tv_nsec >= 1000000000) {
				moment.tv_sec++;
				moment.tv_nsec -= 1000000000;
			}
		} while (pthread_timedjoin_np(workers[i].thread, NULL, &moment) == ETIMEDOUT);
	}
}

/* The mount answers: the parent may go, and with it the terminal that messages went to. */
static void say_ready(struct fs *fs, int ready_fd)
{
	mqfs_log_to_syslog();
	outbox_log_left_overs(fs);
	dup2(STDOUT_FILENO, STDERR_FILENO); /* /dev/null since detach_from_terminal() */
	if (write(ready_fd, "", 1) != 1)
		log_warning("nobody waits for the mount");
	close(ready_fd);
}

/* M1: nothing more is taken, and what workers hold they may finish, until drain-timeout or another signal. */
static void drain(struct fs *fs, const sigset_t *waited)
{
	static const struct timespec pause = {.tv_nsec = 50 * 1000000};
	int64_t end_ms = mqfs_clock_monotonic_ms() + fs->settings.drain_timeout_ms, left = queues_drain(fs);
	int signal = -1;
	if (left > 0)
		log_info("%lld claims are held: waiting for them for %lld s at most", (long long)left,
		         (long long)(fs->settings.drain_timeout_ms / 1000));
	while (left > 0 && signal < 0 && mqfs_clock_monotonic_ms() < end_ms && !fuse_session_exited(fs->session)) {
		signal = sigtimedwait(waited, NULL, &pause);
		left = queues_drain(fs);
	}
	if (left > 0)
		log_warning("%lld claims were not finished, and go back", (long long)left);
}

/* Serves until a signal or an unmount ends it. */
static int serve(struct fs *fs, const char *mountpoint, const sigset_t *waited, int ready_fd)
{
	struct worker workers[WORKERS_MAX];
	size_t wanted = (size_t)fs->settings.workers, count = 0;
	int error = 0, signal = 0;
	if (wanted > WORKERS_MAX)
		wanted = WORKERS_MAX;
	while (count < wanted && error == 0) {
		workers[count] = (struct worker){.session = fs->session, .main = pthread_self()};
		error = pthread_create(&workers[count].thread, NULL, work, &workers[count]);
		count += error == 0;
	}
	if (count > 0) {
		if (ready_fd >= 0)
			say_ready(fs, ready_fd);
		log_info("mounted on %s", mountpoint);
		do
			sigwait(waited, &signal);
		while (signal == SIGUSR2 && !fuse_session_exited(fs->session));
		log_info(signal == SIGUSR2 ? "unmounted" : "ending: signal %d", signal);
		if (signal != SIGUSR2)
			drain(fs, waited);
	}
	/* New callers find the empty directory from here on; those inside are answered below. */
	if (!fuse_session_exited(fs->session))
		mountpoint_detach(mountpoint);
	notify_stop(fs);
	fuse_session_exit(fs->session);
	join_workers(workers, count);
	return -error;
}

/* --- beginning and ending --- */

static int fs_init(struct fs *fs, const struct options *options)
{
	memset(fs, 0, sizeof(*fs));
	pthread_mutex_init(&fs->lock, NULL);
	pthread_mutex_init(&fs->parked_lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&fs->no_requests, &attributes);
	pthread_condattr_destroy(&attributes);
	fs->settings = options->settings;
	fs->uid = getuid();
	fs->gid = getgid();
	fs->mounted_us = mqfs_clock_realtime_us();
	if (getrandom(&fs->secret, sizeof(fs->secret), 0) != sizeof(fs->secret))
		return -EIO;
	fs->secret &= ((1ULL << 47) - 1) & ~(uint64_t)(VIEWS - 1);
	fs->root = tree_node(fs, &root_dir_ops, NULL, &fs->slots[0], VIEW_ONLY);
	return fs->root ? 0 : -ENOMEM;
}

static int connect_backend(struct fs *fs, const struct options *options)
{
	char *error = NULL;
	int result = mqfs_backend_open(options->url, &options->settings, &fs->backend, &error);
	if (result < 0)
		fprintf(stderr, "mqfs: %s\n", error ? error : strerror(-result));
	free(error);
	return result;
}

/* What outlives the process. After the backend was opened: an embedded store has to exist to be told by its path. */
static int open_state(struct fs *fs, const struct options *options)
{
	char *error = NULL;
	int result = mqfs_state_open(options->state_dir, options->url, &fs->state, &error);
	if (result == 0 && !(fs->records = mqfs_records_open(fs->state, options->settings.settled_ttl_ms)))
		result = -ENOMEM;
	if (result < 0)
		fprintf(stderr, "mqfs: %s\n", error ? error : strerror(-result));
	free(error);
	return result;
}

static void close_state(struct fs *fs)
{
	mqfs_records_close(fs->records);
	mqfs_state_close(fs->state);
}

static struct fuse_session *session_new(struct fs *fs, const struct options *options)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct mqfs_backend_status status;
	char *option = NULL;
	mqfs_backend_status(fs->backend, &status);
	fuse_opt_add_arg(&args, "mqfs");
	/* The source is what `mount` and `df` show: never with credentials. Commas would end the option. */
	for (char *c = status.peer; *c; c++) {
		if (*c == ',' || *c == '\\')
			*c = ' ';
	}
	if (asprintf(&option, "-osubtype=mqfs,fsname=%s,nosuid,nodev,noexec%s%s", status.peer,
	             options->allow_other ? ",default_permissions" : "", options->fuse ? "," : "") < 0)
		return NULL;
	fuse_opt_add_arg(&args, option);
	free(option);
	if (options->fuse) {
		fuse_opt_add_arg(&args, "-o");
		fuse_opt_add_arg(&args, options->fuse);
	}
	struct fuse_session *session = fuse_session_new(&args, &ops_table, sizeof(ops_table), fs);
	fuse_opt_free_args(&args);
	return session;
}

/* From the last request to nothing: gives back what is held, answers who still waits. Until the backend and the state
 * are closed completions may come, and answer from nodes. */
static void fs_end(struct fs *fs)
{
	housekeeping_stop(fs);
	outbox_end(fs);
	queues_end(fs);
	mqfs_backend_close(fs->backend);
	close_state(fs);
	parked_end(fs, EIO);
	opened_end(fs);
	queues_clear(fs);
	tree_clear(fs);
	notify_stop(fs);
}

static int mount_and_serve(struct fs *fs, const struct options *options, const sigset_t *waited, int ready_fd)
{
	fs->session = session_new(fs, options);
	if (!fs->session) {
		fprintf(stderr, "mqfs: libfuse refuses the options\n");
		return -EINVAL;
	}
	int result = fuse_session_mount(fs->session, options->mountpoint) == 0 ? 0 : -EIO;
	if (result == 0)
		result = notify_start(fs);
	if (result == 0)
		result = serve(fs, options->mountpoint, waited, ready_fd);
	return result;
}

static void say_nothing(enum fuse_log_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
}

static int run(const struct options *options, int ready_fd)
{
	static struct fs fs;
	sigset_t waited;
	/* Many threads that each allocate a little: more arenas only keep more memory. */
	mallopt(M_ARENA_MAX, 2);
	int result = fs_init(&fs, options);
	if (result < 0)
		return EXIT_FAILURE;
	handle_signals(&waited);
	if (connect_backend(&fs, options) < 0)
		return EXIT_FAILURE;
	if (open_state(&fs, options) < 0) {
		mqfs_backend_close(fs.backend);
		close_state(&fs);
		return EXIT_FAILURE;
	}
	/* Drafts of the state file come on its thread, which wakes the housekeeper. */
	result = housekeeping_start(&fs);
	if (result == 0)
		result = outbox_start(&fs, options->url);
	if (result == 0)
		result = mount_and_serve(&fs, options, &waited, ready_fd);
	fs_end(&fs);
	if (fs.session) {
		/* It is unmounted already; libfuse would complain that it can't do it once more. */
		fuse_set_log_func(say_nothing);
		fuse_session_unmount(fs.session);
		fuse_session_destroy(fs.session);
	}
	return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- in the background --- */

static void detach_from_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	setsid();
	if (chdir("/") < 0 || null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	close(null);
	/* Standard error stays for messages until the mount answers (say_ready). */
}

static int wait_for_child(pid_t pid, int fd)
{
	char byte;
	int status;
	if (read(fd, &byte, 1) == 1)
		return EXIT_SUCCESS;
	if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) != 0)
		return WEXITSTATUS(status);
	return EXIT_FAILURE;
}

int mount_run(const struct options *options)
{
	int ready[2];
	if (mountpoint_prepare(options->mountpoint) < 0)
		return EXIT_FAILURE;
	if (options->foreground)
		return run(options, -1);
	if (pipe2(ready, O_CLOEXEC) < 0) {
		perror("mqfs: pipe");
		return EXIT_FAILURE;
	}
	pid_t pid = fork();
	if (pid < 0) {
		perror("mqfs: fork");
		return EXIT_FAILURE;
	}
	if (pid > 0) {
		close(ready[1]);
		return wait_for_child(pid, ready[0]);
	}
	close(ready[0]);
	detach_from_terminal();
	return run(options, ready[1]);
}

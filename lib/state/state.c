/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LOG_TOPIC "state"
#include <mqfs/log.h>

#include "core.h"
#include "tables.h"

/* Opening and closing, and what other brokers have left. */

enum {
	OPEN_BUSY_MS = 5000,
	LOOK_BUSY_MS = 200,
};

/* While a mount has the file FILE, it holds a lock on FILE.lock. (Not on FILE: closing a descriptor of that
 * would drop the POSIX locks that SQLite holds on it.) -1 when it can't be had. */
static int take_lock(const char *path, int kind, int flags)
{
	char *name;
	int fd;

	if (asprintf(&name, "%s.lock", path) < 0)
		return -1;
	fd = open(name, O_RDWR | O_CLOEXEC | flags, 0600);
	free(name);
	if (fd >= 0 && flock(fd, kind) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static struct mqfs_state *state_free(struct mqfs_state *state)
{
	struct prepared *prepared, *next;

	HASH_ITER(hh, state->prepared, prepared, next)
	{
		HASH_DEL(state->prepared, prepared);
		sqlite3_finalize(prepared->statement);
		free(prepared);
	}
	checkpoint_deinit(&state->checkpoint);
	sqlite3_close(state->db);
	if (state->lock_fd >= 0)
		close(state->lock_fd);
	pthread_cond_destroy(&state->ticked);
	pthread_cond_destroy(&state->wake);
	pthread_mutex_destroy(&state->lock);
	free(state->path);
	free(state);
	return NULL;
}

static struct mqfs_state *state_new(void)
{
	struct mqfs_state *state = calloc(1, sizeof(*state));
	pthread_condattr_t attributes;

	if (!state)
		return NULL;
	state->lock_fd = -1;
	state->jobs_end = &state->jobs;
	pthread_mutex_init(&state->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&state->wake, &attributes);
	pthread_cond_init(&state->ticked, &attributes);
	pthread_condattr_destroy(&attributes);
	return state;
}

/* The file says itself whose it is: a renamed one must not be sent to another broker. */
static int check_peer(struct mqfs_state *state, const char *peer, char **ret_error)
{
	sqlite3_stmt *statement = state_statement(state, "UPDATE about SET peer = ?1 WHERE peer = ''");
	const char *found;
	int r;

	sqlite3_bind_text(statement, 1, peer, -1, SQLITE_STATIC);
	r = statement_run(statement);
	if (r < 0)
		return r;
	statement = state_statement(state, "SELECT peer FROM about");
	r = statement_step(statement);
	if (r < 0)
		return r;
	found = r == 1 ? (const char *)sqlite3_column_text(statement, 0) : NULL;
	r = 0;
	if (!found || strcmp(found, peer) != 0) {
		r = -EINVAL;
		if (asprintf(ret_error, "%s: it belongs to %s", state->path, found ? found : "nobody") < 0)
			*ret_error = NULL;
	}
	sqlite3_reset(statement);
	return r;
}

static int open_file(struct mqfs_state *state, const char *peer, char **ret_error)
{
	int r = schema_open(&state_schema, state->path, OPEN_BUSY_MS, &state->db, ret_error);

	if (r < 0)
		return r;
	state->lock_fd = take_lock(state->path, LOCK_SH, O_CREAT);
	r = check_peer(state, peer, ret_error);
	if (r == 0)
		r = checkpoint_init(&state->checkpoint, state->db);
	if (r == 0)
		r = boot_id_read(state->boot_id);
	if (r == 0)
		r = state_start(state);
	if (r == -EAGAIN)
		r = -ETIMEDOUT;
	if (r < 0 && !*ret_error && asprintf(ret_error, "%s: %s", state->path, strerror(-r)) < 0)
		*ret_error = NULL;
	return r;
}

int mqfs_state_open(const char *directory, const char *url, struct mqfs_state **ret_state, char **ret_error)
{
	struct mqfs_state *state = state_new();
	char *peer = NULL;
	int r;

	*ret_error = NULL;
	if (!state)
		return -ENOMEM;
	r = file_peer(url, &peer);
	if (r == 0)
		r = file_path(directory, peer, &state->path);
	if (r == 0)
		r = open_file(state, peer, ret_error);
	/* The URL isn't told: it may hold a password. */
	else if (asprintf(ret_error, "%s: no state file for this URL: %s", directory, strerror(-r)) < 0)
		*ret_error = NULL;
	free(peer);
	if (r < 0) {
		state_free(state);
		return r;
	}
	*ret_state = state;
	return 0;
}

void mqfs_state_close(struct mqfs_state *state)
{
	if (!state)
		return;
	assert(!state->members);
	state_stop(state);
	state_free(state);
}

const char *mqfs_state_path(const struct mqfs_state *state)
{
	return state->path;
}

/* ---- what others left ---- */

struct found {
	char *path;
	void (*each)(void *arg, const char *path, const char *peer, int64_t messages);
	void *arg;
};

static void count_messages(const struct found *found, sqlite3 *db)
{
	static const char sql[] = "SELECT peer, (SELECT count(*) FROM entry WHERE kind = 0) FROM about";
	sqlite3_stmt *statement = NULL;
	const char *peer;

	sqlite3_busy_timeout(db, LOOK_BUSY_MS);
	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK && statement_step(statement) == 1) {
		peer = (const char *)sqlite3_column_text(statement, 0);
		if (peer && sqlite3_column_int64(statement, 1) > 0)
			found->each(found->arg, found->path, peer, sqlite3_column_int64(statement, 1));
	}
	sqlite3_finalize(statement);
}

static void look_at_file(const struct found *found)
{
	int fd = take_lock(found->path, LOCK_EX | LOCK_NB, 0);
	sqlite3 *db = NULL;

	if (fd < 0 && errno == EWOULDBLOCK)
		return; /* a mount has it */
	if (sqlite3_open_v2(found->path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK)
		count_messages(found, db);
	else
		log_debug("%s: %s", found->path, sqlite3_errmsg(db));
	sqlite3_close(db);
	if (fd >= 0)
		close(fd);
}

static bool is_state_file(const char *name)
{
	size_t length = strlen(name), suffix = strlen(FILE_SUFFIX);

	return length > suffix && strcmp(name + length - suffix, FILE_SUFFIX) == 0;
}

void mqfs_state_each_other(const struct mqfs_state *state,
                           void (*each)(void *arg, const char *path, const char *peer, int64_t messages), void *arg)
{
	const char *slash = strrchr(state->path, '/');
	struct found found = {.each = each, .arg = arg};
	char *directory = strndup(state->path, (size_t)(slash - state->path));
	DIR *dir = directory ? opendir(*directory ? directory : "/") : NULL;
	struct dirent *file;

	while (dir && (file = readdir(dir))) {
		if (!is_state_file(file->d_name) || strcmp(file->d_name, slash + 1) == 0 ||
		    asprintf(&found.path, "%s/%s", directory, file->d_name) < 0)
			continue;
		look_at_file(&found);
		free(found.path);
	}
	if (dir)
		closedir(dir);
	free(directory);
}

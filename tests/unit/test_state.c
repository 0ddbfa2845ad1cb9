/* SPDX-License-Identifier: MIT */
#include "state_fixture.h"

#include <signal.h>
#include <sys/wait.h>

/* The state file's thread: jobs, transactions, ticks; and how files are named and refused. */

/* A job that adds a row to take, and then does what the test wants. */
struct adding {
	struct state_job job;
	const char *name;
	int refusal;     /* a documented outcome */
	int failure;     /* after the row was added */
	const char *sql; /* instead */
	bool done;
	int runs;
};

static int adding_run(struct mqfs_state *state, struct state_job *job)
{
	static const char insert[] = "INSERT INTO take VALUES ('q', ?1, '', 1, 0)";
	struct adding *adding = (struct adding *)job;
	sqlite3_stmt *statement;
	int r;

	adding->runs++;
	if (adding->refusal) {
		job->result = adding->refusal;
		return 0;
	}
	if (adding->sql)
		return statement_run(state_statement(state, adding->sql));
	statement = state_statement(state, insert);
	sqlite3_bind_text(statement, 1, adding->name, -1, SQLITE_STATIC);
	r = statement_run(statement);
	return r < 0 ? r : adding->failure;
}

static void adding_done(struct mqfs_state *state, struct state_job *job)
{
	(void)state;
	pthread_mutex_lock(&lock);
	((struct adding *)job)->done = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void submit(struct mqfs_state *at, struct adding *adding)
{
	adding->job.run = adding_run;
	adding->job.done = adding_done;
	if (adding->job.deadline_ms == 0)
		adding->job.deadline_ms = in_ms(ENOUGH_MS);
	state_submit(at, &adding->job);
}

static int result_of(struct adding *adding)
{
	assert_true(WAIT_UNTIL(adding->done, ENOUGH_MS));
	return adding->job.result;
}

static int add(struct mqfs_state *at, const char *name)
{
	struct adding adding = {.name = name};

	submit(at, &adding);
	return result_of(&adding);
}

static void what_completed_is_there_after_kill(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0) {
		struct mqfs_state *at = open_state(BROKER);

		if (add(at, "survives") < 0)
			_exit(1);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	mqfs_state_close(open_state(BROKER));
	assert_int_equal(sql_integer("SELECT count(*) FROM take WHERE message_id = 'survives'"), 1);
}

/* Its neighbours of the same transaction are done all the same. */
static void one_that_fails_fails_alone(void **state)
{
	struct mqfs_state *at = open_state(BROKER);
	struct adding jobs[] = {{.name = "a"},
	                        {.name = "b", .failure = -EIO},
	                        {.refusal = -EBUSY},
	                        {.name = "a"}, /* violates the key */
	                        {.name = "c"}};
	sqlite3 *other;

	(void)state;
	/* All five wait for this, and so are one transaction. */
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	for (size_t i = 0; i < 5; i++)
		submit(at, &jobs[i]);
	assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	assert_int_equal(result_of(&jobs[0]), 0);
	assert_int_equal(result_of(&jobs[1]), -EIO);
	assert_int_equal(result_of(&jobs[2]), -EBUSY);
	assert_int_equal(result_of(&jobs[3]), -EIO);
	assert_int_equal(result_of(&jobs[4]), 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM take"), 2);
	mqfs_state_close(at);
}

static void a_locked_file_is_waited_for(void **state)
{
	struct mqfs_state *at = open_state(BROKER);
	struct adding late = {.name = "late", .job.deadline_ms = in_ms(400)}, waits = {.name = "waits"};
	struct adding reads = {.sql = "SELECT count(*) FROM take", .job.reads = true};
	struct adding behind = {.sql = "SELECT count(*) FROM take", .job.reads = true};
	sqlite3 *other;

	(void)state;
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	submit(at, &reads);
	submit(at, &late);
	submit(at, &waits);
	submit(at, &behind);
	assert_int_equal(result_of(&reads), 0);
	assert_int_equal(result_of(&late), -ETIMEDOUT);
	assert_false(waits.done);
	assert_false(behind.done); /* it has to see what is written before it */
	assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(other);
	assert_int_equal(result_of(&waits), 0);
	assert_int_equal(result_of(&behind), 0);
	mqfs_state_close(at);
}

static void a_close_waits_for_two_seconds(void **state)
{
	struct mqfs_state *at = open_state(BROKER);
	struct adding never = {.name = "never", .job.deadline_ms = MQFS_NEVER};
	int64_t begin_ms;
	sqlite3 *other;

	(void)state;
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	submit(at, &never);
	begin_ms = mqfs_clock_monotonic_ms();
	mqfs_state_close(at);
	assert_in_range(mqfs_clock_monotonic_ms() - begin_ms, 1500, 5000);
	assert_true(never.done);
	assert_int_equal(never.job.result, -ESHUTDOWN);
	sqlite3_exec(other, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(other);
	/* What was queued before a close is done if it can be. */
	at = open_state(BROKER);
	never = (struct adding){.name = "now"};
	submit(at, &never);
	mqfs_state_close(at);
	assert_int_equal(never.job.result, 0);
	assert_int_equal(sql_integer("SELECT count(*) FROM take"), 1);
}

struct ticking {
	struct state_member member;
	int ticks;
};

static int64_t tick(struct mqfs_state *state, struct state_member *member, int64_t now_ms)
{
	(void)state;
	pthread_mutex_lock(&lock);
	((struct ticking *)member)->ticks++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return now_ms + 20;
}

static void members_tick(void **state)
{
	struct ticking first = {.member.tick = tick}, second = {.member.tick = tick};
	struct mqfs_state *at = open_state(BROKER);
	int ticks;

	(void)state;
	state_join(at, &first.member);
	state_join(at, &second.member);
	assert_true(WAIT_UNTIL(first.ticks > 3 && second.ticks > 3, ENOUGH_MS));
	state_leave(at, &first.member);
	ticks = first.ticks;
	assert_true(WAIT_UNTIL(second.ticks > 8, ENOUGH_MS));
	assert_int_equal(first.ticks, ticks);
	state_leave(at, &second.member);
	mqfs_state_close(at);
}

/* As where a ROLLBACK has failed. */
static int64_t leave_open(struct mqfs_state *state, struct state_member *member, int64_t now_ms)
{
	struct ticking *ticking = (struct ticking *)member;

	(void)now_ms;
	if (ticking->ticks++ == 0)
		assert_int_equal(statement_run(state_statement(state, "BEGIN IMMEDIATE; -- not the state's own")), 0);
	return MQFS_NEVER;
}

static void a_transaction_left_open_ends(void **state)
{
	struct ticking ticking = {.member.tick = leave_open};
	struct mqfs_state *at = open_state(BROKER);

	(void)state;
	state_join(at, &ticking.member);
	assert_int_equal(add(at, "before"), 0); /* a tick follows at the latest now */
	state_leave(at, &ticking.member);
	assert_int_equal(add(at, "after"), 0);
	mqfs_state_close(at);
	assert_int_equal(sql_integer("SELECT count(*) FROM take"), 2);
}

/* --- whose file is it? --- */

/* The file that url has; a new string. */
static char *file_of(const char *url)
{
	struct mqfs_state *at = open_state(url);
	char *file = strdup(mqfs_state_path(at));

	mqfs_state_close(at);
	return file;
}

static void the_file_is_the_brokers(void **state)
{
	static const char *const same[] = {"amqp://a,b:5673/v", "amqp://b:5673,A:5672/v", "amqp://me:secret@a,b:5673/v",
	                                   "amqp://me:other@a,b:5673,a/v"};
	static const char *const others[] = {"amqp://a/v", "amqp://a,b:5673/w", "amqp://a,b:5673/", "amqp://a,b/v"};
	char *file = file_of(same[0]);

	(void)state;
	for (size_t i = 1; i < 4; i++) {
		char *one = file_of(same[i]);

		assert_string_equal(one, file);
		free(one);
	}
	for (size_t i = 0; i < 4; i++) {
		char *one = file_of(others[i]);

		assert_string_not_equal(one, file);
		free(one);
	}
	snprintf(path, sizeof(path), "%s", file);
	assert_int_equal(sql_integer("SELECT peer = 'amqp://a:5672,b:5673/v' FROM about"), 1);
	free(file);
}

static void the_file_is_the_stores(void **state)
{
	char store[128], link[128], url[160];
	char *before, *after;

	(void)state;
	snprintf(store, sizeof(store), "%s/store.db", directory);
	snprintf(link, sizeof(link), "%s/link.db", directory);
	assert_int_equal(symlink("store.db", link), 0);
	snprintf(url, sizeof(url), "sqlite:%s", store);
	before = file_of(url); /* it isn't there yet */
	close(open(store, O_CREAT | O_WRONLY, 0600));
	snprintf(url, sizeof(url), "sqlite:%s", link);
	after = file_of(url);
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static void a_bad_url_is_refused_without_its_password(void **state)
{
	static const char *const urls[] = {"amqp://me:hunter2@/x/y", "http://me:hunter2@host", "sqlite:", ""};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct mqfs_state *at;
		char *error = NULL;

		assert_int_equal(try_state(urls[i], &at, &error), -EINVAL);
		assert_non_null(error);
		assert_null(strstr(error, "hunter2"));
		free(error);
	}
}

static void assert_refused(int result, const char *word)
{
	struct mqfs_state *at;
	char *error = NULL;

	assert_int_equal(try_state(BROKER, &at, &error), result);
	if (!error || !strstr(error, word) || !strstr(error, path))
		fail_msg("\"%s\" says neither %s nor %s", error, word, path);
	free(error);
}

static void what_is_no_state_file_is_refused(void **state)
{
	char rubbish[8192];
	int fd;

	(void)state;
	mqfs_state_close(open_state(BROKER));
	sql("PRAGMA user_version = 999");
	assert_refused(-EOPNOTSUPP, "999");
	sql("PRAGMA user_version = 1; UPDATE about SET peer = 'amqp://elsewhere:5672/'");
	assert_refused(-EINVAL, "elsewhere");
	sql("PRAGMA application_id = 7");
	assert_refused(-EINVAL, "not an mqfs state file");
	/* A store isn't one either. */
	unlink(path);
	mqfs_backend_close(open_store(10000));
	assert_refused(-EINVAL, "not an mqfs state file");
	memset(rubbish, 'x', sizeof(rubbish));
	fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, rubbish, sizeof(rubbish)), sizeof(rubbish));
	close(fd);
	assert_refused(-EINVAL, "not an mqfs state file");
	/* … and was left as it was. */
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, rubbish, sizeof(rubbish)), sizeof(rubbish));
	close(fd);
	for (size_t i = 0; i < sizeof(rubbish); i++)
		assert_int_equal(rubbish[i], 'x');
}

static void a_damaged_file_is_refused(void **state)
{
	char rubbish[4096];
	int64_t pages;
	int fd;

	(void)state;
	mqfs_state_close(open_state(BROKER));
	pages = sql_integer("PRAGMA page_count");
	memset(rubbish, 0x5a, sizeof(rubbish));
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, rubbish, sizeof(rubbish), (pages - 1) * 4096), sizeof(rubbish));
	close(fd);
	assert_refused(-EIO, "damaged");
}

struct other {
	int count;
	char path[512], peer[128];
	int64_t messages;
};

static void other_found(void *arg, const char *file, const char *peer, int64_t messages)
{
	struct other *other = arg;

	other->count++;
	snprintf(other->path, sizeof(other->path), "%s", file);
	snprintf(other->peer, sizeof(other->peer), "%s", peer);
	other->messages = messages;
}

/* What a broker left that nobody mounts any more is told; what a mount has, and what is empty, isn't. */
static void left_over_files_are_found(void **state)
{
	struct mqfs_state *at = open_state("amqp://other:5673/v"), *own;
	struct other other = {0};
	char left[512];

	(void)state;
	snprintf(left, sizeof(left), "%s", path);
	sql("INSERT INTO line (queue) VALUES ('jobs');"
	    "INSERT INTO entry VALUES (1, 1, 1, 0, 1, -1, 'x', 1, 0, 0, 0, 0, 0, 0, 0, NULL),"
	    " (2, 2, 1, 0, 2, -1, 'y', 1, 0, 0, 0, 0, 0, 0, 0, NULL), (3, 3, 1, 1, 0, -1, 'z', 1, 0, 0, 0, 0, 0, 0, 2, "
	    "NULL)");
	mqfs_state_close(open_state("amqp://empty/"));
	own = open_state(BROKER);
	close(open(strcat(strcpy(other.path, directory), "/rubbish.state"), O_CREAT | O_WRONLY, 0600));
	mqfs_state_each_other(own, other_found, &other);
	assert_int_equal(other.count, 0);
	mqfs_state_close(at);
	mqfs_state_each_other(own, other_found, &other);
	assert_int_equal(other.count, 1);
	assert_string_equal(other.path, left);
	assert_string_equal(other.peer, "amqp://other:5673/v");
	assert_int_equal(other.messages, 2);
	mqfs_state_close(own);
}

static void a_new_file_is_private(void **state)
{
	struct stat status;
	char deep[128];

	(void)state;
	snprintf(deep, sizeof(deep), "%s/state", directory);
	strcat(directory, "/state");
	umask(0);
	mqfs_state_close(open_state(BROKER));
	umask(022);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(stat(deep, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0700);
	assert_int_equal(fixture_teardown(NULL), 0);
	*strrchr(directory, '/') = '\0';
}

int main(void)
{
#define STATE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	static const struct CMUnitTest tests[] = {
	    STATE_TEST(what_completed_is_there_after_kill),
	    STATE_TEST(one_that_fails_fails_alone),
	    STATE_TEST(a_locked_file_is_waited_for),
	    STATE_TEST(a_close_waits_for_two_seconds),
	    STATE_TEST(members_tick),
	    STATE_TEST(a_transaction_left_open_ends),
	    STATE_TEST(the_file_is_the_brokers),
	    STATE_TEST(the_file_is_the_stores),
	    STATE_TEST(a_bad_url_is_refused_without_its_password),
	    STATE_TEST(what_is_no_state_file_is_refused),
	    STATE_TEST(a_damaged_file_is_refused),
	    STATE_TEST(left_over_files_are_found),
	    STATE_TEST(a_new_file_is_private),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}

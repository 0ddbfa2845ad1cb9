/* SPDX-License-Identifier: MIT */
#include "sqlite_fixture.h"

#include <sys/wait.h>

#include "db/schema.h"
#include "sqlite/tables.h"
#include "state/tables.h"

/* What a store's file may be, and what becomes of files that are none. */

struct image {
	char *data;
	size_t bytes;
};

static struct image read_file(const char *file)
{
	struct image image = {0};
	struct stat status;
	int fd = open(file, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &status), 0);
	image.bytes = (size_t)status.st_size;
	image.data = malloc(image.bytes + 1);
	assert_int_equal(read(fd, image.data, image.bytes), status.st_size);
	close(fd);
	return image;
}

static void write_file(const char *file, const void *data, size_t bytes, off_t offset)
{
	int fd = open(file, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, bytes, offset), bytes);
	close(fd);
}

static int files_in_directory(void)
{
	DIR *dir = opendir(directory);
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 2;
}

/* Refused with result, a text that has word in it, and no trace. */
static void assert_refused(int result, const char *word)
{
	struct image before = read_file(path), after;
	int files = files_in_directory();
	struct mqfs_backend *backend;
	struct mqfs_settings settings;
	char *error = NULL;

	mqfs_settings_init(&settings);
	assert_int_equal(mqfs_sqlite_open(path, &settings, &backend, &error), result);
	assert_non_null(error);
	if (!strstr(error, word) || !strstr(error, path))
		fail_msg("\"%s\" says neither %s nor %s", error, word, path);
	free(error);
	after = read_file(path);
	assert_int_equal(before.bytes, after.bytes);
	assert_memory_equal(before.data, after.data, before.bytes);
	assert_int_equal(files_in_directory(), files);
	free(before.data);
	free(after.data);
}

static void make_store(void)
{
	struct mqfs_backend *backend = open_store(10000);

	assert_int_equal(declare(backend, "jobs"), 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(publish(backend, "jobs", unit_message("a task")), 0);
	mqfs_backend_close(backend);
}

static void a_new_store_is_private(void **state)
{
	struct stat status;
	struct mqfs_backend *backend;

	(void)state;
	snprintf(path, sizeof(path), "%s/deep/er?#%%41/store.db", directory);
	umask(0);
	backend = open_store(10000);
	umask(022);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(declare(backend, "jobs"), 0);
	mqfs_backend_close(backend);
	/* A second time: the odd name has to be found again. */
	backend = open_store(10000);
	assert_int_equal(declare(backend, "jobs"), -EEXIST);
	mqfs_backend_close(backend);
	unlink(path);
	*strrchr(path, '/') = '\0';
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0700);
	rmdir(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
}

static void an_empty_file_becomes_a_store(void **state)
{
	(void)state;
	write_file(path, "", 0, 0);
	make_store();
	assert_int_equal(sql_integer("PRAGMA application_id"), 0x6d716673);
}

static void a_text_is_refused(void **state)
{
	static const char short_text[] = "hello";
	char text[8192];

	(void)state;
	write_file(path, short_text, sizeof(short_text), 0);
	assert_refused(-EINVAL, "not an mqfs store");
	memset(text, 'x', sizeof(text));
	write_file(path, text, sizeof(text), 0);
	assert_refused(-EINVAL, "not an mqfs store");
}

static void a_foreign_database_is_refused(void **state)
{
	(void)state;
	sql("CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')");
	assert_refused(-EINVAL, "not an mqfs store");
	sql("PRAGMA journal_mode = WAL; INSERT INTO notes VALUES ('mine too')");
	assert_refused(-EINVAL, "not an mqfs store");
}

static void a_newer_store_is_refused(void **state)
{
	(void)state;
	make_store();
	sql("PRAGMA user_version = 999");
	assert_refused(-EOPNOTSUPP, "999");
}

static void a_cut_store_is_refused(void **state)
{
	(void)state;
	make_store();
	assert_int_equal(truncate(path, (sql_integer("PRAGMA page_count") - 1) * 4096), 0);
	assert_refused(-EIO, "damaged");
	assert_int_equal(truncate(path, 4096), 0);
	assert_refused(-EIO, "damaged");
	assert_int_equal(truncate(path, 1000), 0);
	assert_refused(-EIO, "damaged");
}

static void an_overwritten_page_is_refused(void **state)
{
	off_t pages;
	char rubbish[4096];
	struct image image;

	(void)state;
	make_store();
	pages = sql_integer("PRAGMA page_count"); /* the file is longer: it grows by chunks */
	memset(rubbish, 0x5a, sizeof(rubbish));
	image = read_file(path);
	for (off_t page = 1; page < pages; page++) {
		write_file(path, rubbish, sizeof(rubbish), page * 4096);
		assert_refused(-EIO, "damaged");
		write_file(path, image.data + page * 4096, 4096, page * 4096);
	}
	/* Without the damage it opens. */
	mqfs_backend_close(open_store(10000));
	free(image.data);
}

/* What somebody has changed with SQL: the file is whole, but not the store that mqfs made. */
static void changed_tables_are_refused(void **state)
{
	static const char *const changes[][2] = {
	    {"CREATE TRIGGER t AFTER INSERT ON messages BEGIN DELETE FROM contents; END", "DROP TRIGGER t"},
	    {"ALTER TABLE messages RENAME COLUMN next_at TO then_at",
	     "ALTER TABLE messages RENAME COLUMN then_at TO next_at"},
	    {"CREATE TABLE notes (text)", "DROP TABLE notes"},
	    {"PRAGMA user_version = 0", "PRAGMA user_version = 1"},
	};

	(void)state;
	make_store();
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		sql(changes[i][0]);
		assert_refused(-EIO, "damaged");
		sql(changes[i][1]);
		mqfs_backend_close(open_store(10000));
	}
	sql("ANALYZE"); /* harmless */
	mqfs_backend_close(open_store(10000));
	sql("DROP INDEX messages_due");
	assert_refused(-EIO, "damaged");
}

static void a_directory_is_refused(void **state)
{
	struct mqfs_backend *backend;
	struct mqfs_settings settings;
	char *error = NULL;

	(void)state;
	mqfs_settings_init(&settings);
	assert_int_equal(mqfs_sqlite_open(directory, &settings, &backend, &error), -EISDIR);
	free(error);
	write_file(path, "x", 1, 0);
	strcat(path, "/store");
	assert_int_equal(mqfs_sqlite_open(path, &settings, &backend, &error), -ENOTDIR);
	free(error);
}

/* As far as somebody came who was killed in a file's first transaction: pages of it, and the journal of an empty file.
 */
static void leave_unfinished(const struct image *image, size_t bytes)
{
	static const unsigned char header[512] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7, [22] = 2, [26] = 16};
	char journal[sizeof(path) + 16];

	unlink(path);
	snprintf(journal, sizeof(journal), "%s-journal", path);
	write_file(path, image->data, bytes, 0);
	write_file(journal, header, sizeof(header), 0);
}

static void a_store_that_was_not_finished_is_made_anew(void **state)
{
	struct image image, zeroes = {.data = calloc(1, 8192), .bytes = 8192};
	size_t pages;

	(void)state;
	make_store();
	pages = (size_t)sql_integer("PRAGMA page_count");
	image = read_file(path);
	image.data[18] = image.data[19] = 1; /* it doesn't have a log yet */
	for (size_t page = 1; page <= pages; page++) {
		leave_unfinished(&image, page * 4096);
		make_store();
		assert_int_equal(files_in_directory(), 1);
	}
	leave_unfinished(&zeroes, zeroes.bytes);
	make_store();
	free(image.data);
	free(zeroes.data);
}

static void a_foreign_one_that_was_not_finished_is_refused(void **state)
{
	struct image image;

	(void)state;
	sql("CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')");
	image = read_file(path);
	leave_unfinished(&image, 4096);
	assert_refused(-EIO, "damaged");
	leave_unfinished(&image, image.bytes);
	assert_refused(-EINVAL, "not an mqfs store");
	free(image.data);
}

/* A path is a file's, whatever SQLite would make of it. */
static void odd_names_are_files(void **state)
{
	static const char *const names[] = {":memory:", "file:odd.db?mode=rwc", "file::memory:"};
	char before[512], whole[512];
	struct stat status;

	(void)state;
	assert_non_null(getcwd(before, sizeof(before)));
	assert_int_equal(chdir(directory), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(whole, sizeof(whole), "%s/%s", directory, names[i]);
		strcpy(path, names[i]);
		make_store();
		assert_int_equal(stat(whole, &status), 0);
		assert_true(status.st_size > 0);
	}
	assert_int_equal(chdir(before), 0);
	assert_int_equal(files_in_directory(), sizeof(names) / sizeof(names[0]));
}

/* Many mounts start at once, on a store that isn't there yet. */
static void whoever_is_first_makes_it(void **state)
{
	pid_t children[8];
	int status;

	(void)state;
	for (size_t i = 0; i < 8; i++) {
		children[i] = fork();
		assert_true(children[i] >= 0);
		if (children[i] == 0) {
			struct mqfs_backend *backend = NULL;
			struct mqfs_settings settings;
			char *error = NULL;

			mqfs_settings_init(&settings);
			if (mqfs_sqlite_open(path, &settings, &backend, &error) < 0) {
				fprintf(stderr, "%s\n", error);
				_exit(1);
			}
			mqfs_backend_close(backend);
			_exit(0);
		}
	}
	for (size_t i = 0; i < 8; i++) {
		assert_int_equal(waitpid(children[i], &status, 0), children[i]);
		assert_int_equal(status, 0);
	}
}

/* What a killed process leaves: the file and a log. Both together are the store. */
static void a_log_that_was_left_is_read(void **state)
{
	struct mqfs_backend *backend;
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0) {
		backend = open_store(10000);
		if (declare(backend, "jobs") < 0 || publish(backend, "jobs", unit_message("survives")) < 0)
			_exit(1);
		_exit(0); /* no close */
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	backend = open_store(10000);
	assert_int_equal(depths(backend, "jobs").ready, 1);
	mqfs_backend_close(backend);
}

/* A commit is the confirm: it is on the disk when it returns, also when the power goes. */
static void every_commit_is_on_the_disk(void **state)
{
	static const struct schema *const schemas[] = {&sqlite_schema, &state_schema};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		sqlite3_stmt *statement;
		sqlite3 *db;
		char *error = NULL;
		char file[sizeof(path) + 8];

		snprintf(file, sizeof(file), "%s.%zu", path, i);
		assert_int_equal(schema_open(schemas[i], file, 10000, &db, &error), 0);
		assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA synchronous", -1, &statement, NULL), SQLITE_OK);
		assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
		assert_int_equal(sqlite3_column_int(statement, 0), 2); /* FULL */
		sqlite3_finalize(statement);
		sqlite3_close(db);
	}
}

int main(void)
{
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	static const struct CMUnitTest tests[] = {
	    STORE_TEST(a_new_store_is_private),
	    STORE_TEST(an_empty_file_becomes_a_store),
	    STORE_TEST(a_text_is_refused),
	    STORE_TEST(a_foreign_database_is_refused),
	    STORE_TEST(a_newer_store_is_refused),
	    STORE_TEST(a_cut_store_is_refused),
	    STORE_TEST(an_overwritten_page_is_refused),
	    STORE_TEST(changed_tables_are_refused),
	    STORE_TEST(a_directory_is_refused),
	    STORE_TEST(a_store_that_was_not_finished_is_made_anew),
	    STORE_TEST(a_foreign_one_that_was_not_finished_is_refused),
	    STORE_TEST(odd_names_are_files),
	    STORE_TEST(whoever_is_first_makes_it),
	    STORE_TEST(a_log_that_was_left_is_read),
	    STORE_TEST(every_commit_is_on_the_disk),
	};

	return cmocka_run_group_tests_name("sqlite schema", tests, NULL, NULL);
}

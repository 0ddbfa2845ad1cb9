/* SPDX-License-Identifier: MIT */
/*
 * In front of a target where there is no libFuzzer: feeds it files, and all files of directories, and says how many.
 *
 *     replay_NAME FILE-OR-DIRECTORY...
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

static unsigned fed;

static void feed(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	struct stat status;

	if (!file || fstat(fileno(file), &status) < 0) {
		perror(path);
		exit(1);
	}
	/* Exactly as large as it is, so that the sanitizers see what reads past its end. */
	data = malloc((size_t)status.st_size);
	EXPECT(data || status.st_size == 0);
	EXPECT(fread(data, 1, (size_t)status.st_size, file) == (size_t)status.st_size);
	fclose(file);
	fprintf(stderr, "%s\n", path); /* when it is the last line, this was the one */
	LLVMFuzzerTestOneInput(data, (size_t)status.st_size);
	free(data);
	fed++;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void feed_all(const char *path)
{
	struct dirent **entries = NULL;
	int count = scandir(path, &entries, is_visible, alphasort);

	if (count < 0 && errno == ENOTDIR) {
		feed(path);
		return;
	}
	if (count < 0) {
		perror(path);
		exit(1);
	}
	for (int i = 0; i < count; i++) {
		char *name;

		EXPECT(asprintf(&name, "%s/%s", path, entries[i]->d_name) > 0);
		feed_all(name);
		free(name);
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		feed_all(argv[i]);
	printf("%u inputs\n", fed);
	return fed > 0 ? 0 : 1;
}

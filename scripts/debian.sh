# Sourced by the scripts that fetch from Debian.

# The mirror that this machine is set up for.
debian_mirror() {
  local known
  known=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | awk '/\/debian\/?$/ && !found++')
  echo "${known:-http://deb.debian.org/debian}"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    echo "error: \`$*\` needs root or sudo" >&2
    return 1
  fi
}

# left_out NAME: whether SKIP, names with blanks or commas between them, has it.
left_out() {
  local skipped=${SKIP:-}
  case " ${skipped//,/ } " in *" $1 "*) return 0 ;; esac
  return 1
}

-- A picture is asked for when the reader comes near it.
function Image(picture)
  picture.attributes.loading = 'lazy'
  return picture
end
